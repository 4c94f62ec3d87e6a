// Follows one message from its first beat to its tag beat: names its nonce and key once, counts its bytes, and marks it bad
// as soon as a rule is broken. Every later beat of a bad message is bad.
(* keep_hierarchy *)
module message_gate #(
    parameter int SlotBits   = 4,
    parameter int LengthBits = 21
) (
    input  logic                     clk,
    input  logic                     rst,
    input  logic                     accept,
    input  logic                     start,
    input  logic                     encrypt_in,
    input  tec_pkg::kind_t                    kind,
    input  logic [              3:0] bytes,
    input  logic [             31:0] burst,
    // the region's entry, for a first beat
    input  logic                     region_enable,
    input  logic [             31:0] region_tensor,
    input  logic [             31:0] region_version,
    input  logic [             32:0] region_next,
    input  logic [     SlotBits-1:0] region_slot,
    input  logic [(1<<SlotBits)-1:0] live,
    // of the beat being taken
    output logic                     bad,
    output logic                     encrypt,
    output logic                     wrote,
    output logic [2*LengthBits-1:0]  lengths,
    // of the beat in stage 0
    output tec_pkg::block_t                   counter_block,
    output logic [     SlotBits-1:0] slot
);
  logic message_bad, message_encrypt;
  logic [SlotBits-1:0] message_slot;
  logic [LengthBits-1:0] aad_bytes, data_bytes, aad_before, data_before, step;
  logic refused, misplaced, unwritten;
  logic [31:0] count;

  assign aad_before  = start ? '0 : aad_bytes;
  assign data_before = start ? '0 : data_bytes;
  assign lengths     = {aad_before, data_before};
  assign step        = {{LengthBits - 5{1'b0}}, bytes == 4'd0, bytes};
  assign encrypt     = start ? encrypt_in : message_encrypt;
  // Counter 1 masks the tag; data starts at 2 (SP 800-38D, section 7.1 with a 96-bit IV).
  assign count       = kind == tec_pkg::KindTag ? 32'd1 : 32'd2 + {{36 - LengthBits{1'b0}}, data_before[LengthBits-1:4]};

  assign unwritten = {1'b0, burst} >= region_next;
  assign refused = start ? !region_enable || !live[region_slot] || unwritten != encrypt_in
                         : message_bad || !live[message_slot];
  always_comb begin
    unique case (kind)
      tec_pkg::KindAad:  misplaced = data_before != '0 || aad_before[3:0] != '0 || aad_before[LengthBits-1];
      tec_pkg::KindData: misplaced = data_before[3:0] != '0 || data_before[LengthBits-1];
      tec_pkg::KindTag:  misplaced = bytes != 4'd0;  // sixteen bytes or nothing: no shortened tag
      default:  misplaced = 1'b1;
    endcase
  end
  assign bad   = refused || misplaced;
  assign wrote = accept && start && encrypt_in && !bad;

  always_ff @(posedge clk) begin
    if (rst) message_bad <= 1'b1;
    else if (accept) message_bad <= bad || kind == tec_pkg::KindTag;
    else if (!live[message_slot]) message_bad <= 1'b1;

    if (accept) begin
      counter_block[31:0] <= count;
      message_encrypt     <= encrypt;
      aad_bytes           <= kind == tec_pkg::KindAad ? aad_before + step : aad_before;
      data_bytes          <= kind == tec_pkg::KindData ? data_before + step : data_before;
      if (start) begin
        counter_block[127:32] <= {region_tensor, region_version, burst};
        message_slot          <= region_slot;
      end
    end
  end
  assign slot = message_slot;
endmodule
