// AES-128 key schedule (FIPS 197, section 5.2), one round key a cycle on `word_bus`, eleven cycles a key.
// The state is zero whenever the unit is idle, so that the same bus wipes key memory.
(* keep_hierarchy *)
module key_expander (
    input  logic       clk,
    input  logic       rst,
    input  logic       start,
    input  tec_pkg::block_t     key,
    output logic       busy,
    output logic [3:0] step,
    output tec_pkg::block_t     word_bus
);
  logic [7:0] rcon;
  logic [31:0] rotated, substituted, w0, w1, w2, w3;

  assign rotated = {word_bus[23:0], word_bus[31:24]};
  for (genvar i = 0; i < 4; i++) begin : g_sbox
    aes_sbox sbox (
        .a(rotated[31-8*i-:8]),
        .y(substituted[31-8*i-:8])
    );
  end
  assign w0 = word_bus[127:96] ^ substituted ^ {rcon, 24'b0};
  assign w1 = word_bus[95:64] ^ w0;
  assign w2 = word_bus[63:32] ^ w1;
  assign w3 = word_bus[31:0] ^ w2;

  always_ff @(posedge clk) begin
    if (rst || (busy && step == 4'd10)) begin
      busy     <= 1'b0;
      word_bus <= '0;
    end else if (start) begin
      busy     <= 1'b1;
      word_bus <= key;
    end else if (busy) begin
      word_bus <= {w0, w1, w2, w3};
    end
    step <= (rst || start || !busy) ? 4'd0 : step + 4'd1;
    rcon <= busy ? {rcon[6:0], 1'b0} ^ (rcon[7] ? 8'h1b : 8'h00) : 8'h01;
  end
endmodule
