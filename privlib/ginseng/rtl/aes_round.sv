// One AES round (FIPS 197, section 5.1): SubBytes, ShiftRows, MixColumns (not in the final round), AddRoundKey.
(* keep_hierarchy *)
module aes_round #(
    parameter bit Final = 1'b0
) (
    input  tec_pkg::block_t state,
    input  tec_pkg::block_t round_key,
    output tec_pkg::block_t next
);
  tec_pkg::block_t substituted;
  tec_pkg::block_t shifted;
  tec_pkg::block_t mixed;

  function automatic logic [7:0] xtime(input logic [7:0] a);
    xtime = {a[6:0], 1'b0} ^ (a[7] ? 8'h1b : 8'h00);
  endfunction

  for (genvar i = 0; i < 16; i++) begin : g_byte
    // Byte i stands in row i % 4 of column i / 4; row r moves left by r columns.
    localparam int From = (i + 4 * (i % 4)) % 16;
    aes_sbox sbox (
        .a(state[127-8*i-:8]),
        .y(substituted[127-8*i-:8])
    );
    assign shifted[127-8*i-:8] = substituted[127-8*From-:8];
  end

  if (Final) begin : g_final
    assign mixed = shifted;
  end else begin : g_mix
    for (genvar i = 0; i < 16; i++) begin : g_byte
      localparam int Column = i - i % 4;
      logic [7:0] a, b, c, d;
      assign a = shifted[127-8*i-:8];
      assign b = shifted[127-8*(Column+(i+1)%4)-:8];
      assign c = shifted[127-8*(Column+(i+2)%4)-:8];
      assign d = shifted[127-8*(Column+(i+3)%4)-:8];
      assign mixed[127-8*i-:8] = xtime(a) ^ xtime(b) ^ b ^ c ^ d;
    end
  end

  assign next = mixed ^ round_key;
endmodule
