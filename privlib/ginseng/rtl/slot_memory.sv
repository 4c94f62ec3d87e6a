// One secret per key slot in LUT RAM: written by number, read where a pipeline stage says.
(* keep_hierarchy *)
module slot_memory #(
    parameter int Width    = 128,
    parameter int SlotBits = 4
) (
    input  logic                clk,
    input  logic                write,
    input  logic [SlotBits-1:0] write_slot,
    input  logic [   Width-1:0] write_data,
    input  logic [SlotBits-1:0] read_slot,
    output logic [   Width-1:0] read_data
);
  (* ram_style = "distributed" *) logic [Width-1:0] memory[1<<SlotBits];

  always_ff @(posedge clk) if (write) memory[write_slot] <= write_data;
  assign read_data = memory[read_slot];
endmodule
