// Freshness without a tree: for each tensor region its nonce (tensor, version) and key slot, on chip.
// Bursts below `next` have been written under the current version and may be read; bursts from `next` on may be written,
// in increasing order. So no nonce is used for two writes, nor for a read before its write.
(* keep_hierarchy *)
module region_table #(
    parameter int RegionBits = 5,
    parameter int SlotBits   = 4
) (
    input  logic                  clk,
    input  logic                  wiping,
    input  logic [RegionBits-1:0] wipe_index,
    // monitor: bind all fields, or move to the next version
    input  logic                  bind_valid,
    input  logic                  bump_valid,
    input  logic [RegionBits-1:0] index,
    input  logic                  bind_enable,
    input  logic [          31:0] bind_tensor,
    input  logic [          31:0] bind_version,
    input  logic [          32:0] bind_next,
    input  logic [  SlotBits-1:0] bind_slot,
    // data path: a burst was written
    input  logic                  wrote,
    input  logic [          31:0] wrote_burst,
    // entry at `index`
    output logic                  enable,
    output logic [          31:0] tensor,
    output logic [          31:0] version,
    output logic [          32:0] next,
    output logic [  SlotBits-1:0] slot
);
  localparam int EntryBits = 1 + SlotBits + 64;
  logic [EntryBits-1:0] entry, new_entry;
  logic [32:0] new_next;
  logic [RegionBits-1:0] write_index;

  assign {enable, slot, tensor, version} = entry;
  assign write_index = wiping ? wipe_index : index;

  always_comb begin
    new_entry = '0;
    new_next  = '0;
    if (!wiping) begin
      if (bind_valid) begin
        new_entry = {bind_enable, bind_slot, bind_tensor, bind_version};
        new_next  = bind_next;
      end else if (bump_valid) begin
        // Past the last version the region is closed rather than wrapped.
        new_entry = {enable && version != '1, slot, tensor, version + 32'd1};
      end else begin
        new_next = {1'b0, wrote_burst} + 33'd1;
      end
    end
  end

  slot_memory #(.Width(EntryBits), .SlotBits(RegionBits)) entries (
      .clk,
      .write(wiping || bind_valid || bump_valid),
      .write_slot(write_index),
      .write_data(new_entry),
      .read_slot(index),
      .read_data(entry)
  );
  slot_memory #(.Width(33), .SlotBits(RegionBits)) nexts (
      .clk,
      .write(wiping || bind_valid || bump_valid || wrote),
      .write_slot(write_index),
      .write_data(new_next),
      .read_slot(index),
      .read_data(next)
  );
endmodule
