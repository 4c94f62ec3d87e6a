// Key registers: loads a key into a slot (schedule, then the hash key through the AES pipeline), clears one, wipes all at reset.
// A slot is live from the moment its hash key is stored until it is cleared or loaded anew.
(* keep_hierarchy *)
module key_loader #(
    parameter int SlotBits = 4
) (
    input  logic                    clk,
    input  logic                    rst,
    input  logic                    wiping,
    input  logic [    SlotBits-1:0] wipe_slot,
    // monitor
    input  logic                    key_valid,
    input  logic                    key_clear,
    input  logic [    SlotBits-1:0] key_slot,
    input  tec_pkg::block_t                  key,
    output logic                    key_ready,
    // round keys out
    output logic                    round_write,
    output logic                    round_write_all,
    output logic [             3:0] round_step,
    output logic [    SlotBits-1:0] round_slot,
    output tec_pkg::block_t                  round_data,
    // a block of zeros through the pipeline: asked for, taken, come out
    output logic                    inject,
    output logic [    SlotBits-1:0] loading_slot,
    input  logic                    injected,
    input  logic                    arrival,
    input  logic [    SlotBits-1:0] arrival_slot,
    input  tec_pkg::block_t                  arrival_block,
    // hash keys out
    output logic                    hash_write,
    output logic [    SlotBits-1:0] hash_slot,
    output tec_pkg::block_t                  hash_key,
    output logic [(1<<SlotBits)-1:0] live
);
  logic expanding, waiting, cancelled;
  logic load, clear, store;

  // Clearing must not wait for traffic: only for an expansion (eleven cycles) and for the cycle of an arrival.
  assign key_ready = !wiping && !expanding && !arrival && (key_clear || (!inject && !waiting));
  assign load  = key_valid && key_ready && !key_clear;
  assign clear = key_valid && key_ready && key_clear;
  assign store = arrival && !cancelled;

  key_expander expander (
      .clk,
      .rst,
      .start(load),
      .key,
      .busy(expanding),
      .step(round_step),
      .word_bus(round_data)
  );
  // The expander's bus is zero whenever it is not expanding.
  assign round_write = wiping || clear || expanding;
  assign round_write_all = !expanding;
  assign round_slot = wiping ? wipe_slot : expanding ? loading_slot : key_slot;

  assign hash_write = wiping || clear || store;
  assign hash_slot = wiping ? wipe_slot : store ? arrival_slot : key_slot;
  assign hash_key = store ? arrival_block : '0;

  always_ff @(posedge clk) begin
    if (rst) begin
      inject    <= 1'b0;
      waiting   <= 1'b0;
      cancelled <= 1'b0;
      live      <= '0;
    end else begin
      if (expanding && round_step == 4'd10) inject <= 1'b1;
      if (injected) begin
        inject  <= 1'b0;
        waiting <= 1'b1;
      end
      if (clear && key_slot == loading_slot) begin
        inject <= 1'b0;
        if (waiting || injected) cancelled <= 1'b1;
      end
      if (arrival) begin
        waiting   <= 1'b0;
        cancelled <= 1'b0;
      end
      if (store) live[arrival_slot] <= 1'b1;
      if (load || clear) live[key_slot] <= 1'b0;
    end
    if (load) loading_slot <= key_slot;
  end
endmodule
