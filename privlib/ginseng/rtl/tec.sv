// Tensor Encryption Core: AES-128-GCM (SP 800-38D) at the memory port, one 128-bit block a cycle in either direction.
//
// The nonce of a burst is {tensor, version, burst}: the first two from the region table on this side of the port, so that
// memory cannot choose them. A message is one burst: associated data, data, a tag beat. Encrypting, the tag beat's slot
// yields the tag; decrypting, the tag beat carries the tag read from memory and yields only a verdict.
// Nothing that takes time depends on data or keys. Data leave before the verdict: whoever takes them must wait for it.
module tec #(
    parameter int SlotBits   = 4,   // 16 key slots
    parameter int RegionBits = 5,   // 32 tensor regions
    parameter int LengthBits = 21,  // at most 2^20 bytes each of data and associated data in a message
    parameter int Base       = 8,   // smallest multiplier inside GHASH
    parameter int Cut        = 32   // width of the products at GHASH's register
) (
    input  logic                  clk,
    input  logic                  rst,
    // keys (monitor only)
    input  logic                  key_valid,
    input  logic                  key_clear,
    input  logic [  SlotBits-1:0] key_slot,
    input  logic [         127:0] key,
    output logic                  key_ready,
    // regions (monitor only); each takes the cycle, input waits
    input  logic                  bind_valid,
    input  logic                  bump_valid,
    input  logic [RegionBits-1:0] bind_region,
    input  logic                  bind_enable,
    input  logic [          31:0] bind_tensor,
    input  logic [          31:0] bind_version,
    input  logic [          32:0] bind_next,
    input  logic [  SlotBits-1:0] bind_slot,
    output logic                  bind_ready,
    output logic                  bound_enable,
    output logic [          31:0] bound_version,
    // beats in; start, with encrypt, region and burst, marks a message's first
    input  logic                  in_valid,
    output logic                  in_ready,
    input  logic                  in_start,
    input  logic                  in_encrypt,
    input  logic [RegionBits-1:0] in_region,
    input  logic [          31:0] in_burst,
    input  logic [           1:0] in_kind,
    input  logic [           3:0] in_bytes,  // 0 means 16
    input  logic [         127:0] in_data,
    // data and tag beats out, in order
    output logic                  out_valid,
    input  logic                  out_ready,
    output logic                  out_last,
    output logic                  out_ok,
    output logic [           3:0] out_bytes,
    output logic [         127:0] out_data
);
  localparam int Rounds = 10;
  localparam int Slots = 1 << SlotBits;
  localparam int BeatBits = 9 + 2 * LengthBits;

  typedef struct packed {
    tec_pkg::kind_t                   kind;
    logic                    first;
    logic                    encrypt;
    logic                    bad;
    logic [3:0]              bytes;
    logic [2*LengthBits-1:0] lengths;
  } beat_t;

  logic advance, accept, inject, injected, wiping, region_op;
  logic [RegionBits-1:0] wipe_count, region_index;
  logic [Slots-1:0] live;

  assign advance   = !(out_valid && !out_ready);
  assign region_op = bind_valid || bump_valid;
  assign bind_ready = !wiping;
  assign injected  = inject && advance;
  assign in_ready  = advance && !wiping && !inject && !region_op;
  assign accept    = in_valid && in_ready;

  // After reset every slot and region is overwritten before anything is taken.
  always_ff @(posedge clk) begin
    if (rst) begin
      wiping     <= 1'b1;
      wipe_count <= '0;
    end else if (wiping) begin
      wiping     <= wipe_count != '1;
      wipe_count <= wipe_count + 1'b1;
    end
  end

  // Regions
  logic entry_enable, wrote;
  logic [31:0] entry_tensor, entry_version;
  logic [32:0] entry_next;
  logic [SlotBits-1:0] entry_slot;

  assign region_index = region_op ? bind_region : in_region;
  assign bound_enable = bind_ready && region_op && entry_enable;
  assign bound_version = (bind_ready && region_op) ? entry_version : '0;
  region_table #(.RegionBits(RegionBits), .SlotBits(SlotBits)) regions (
      .clk,
      .wiping,
      .wipe_index(wipe_count),
      .bind_valid,
      .bump_valid,
      .index(region_index),
      .bind_enable,
      .bind_tensor,
      .bind_version,
      .bind_next,
      .bind_slot,
      .wrote,
      .wrote_burst(in_burst),
      .enable(entry_enable),
      .tensor(entry_tensor),
      .version(entry_version),
      .next(entry_next),
      .slot(entry_slot)
  );

  // Beats in
  beat_t beat_in, beat;
  tec_pkg::block_t counter_block;
  logic [SlotBits-1:0] message_slot;

  assign beat_in.kind  = tec_pkg::kind_t'(in_kind);
  assign beat_in.first = in_start;
  assign beat_in.bytes = in_bytes;
  message_gate #(.SlotBits(SlotBits), .LengthBits(LengthBits)) gate (
      .clk,
      .rst,
      .accept,
      .start(in_start),
      .encrypt_in(in_encrypt),
      .kind(tec_pkg::kind_t'(in_kind)),
      .bytes(in_bytes),
      .burst(in_burst),
      .region_enable(entry_enable),
      .region_tensor(entry_tensor),
      .region_version(entry_version),
      .region_next(entry_next),
      .region_slot(entry_slot),
      .live,
      .bad(beat_in.bad),
      .encrypt(beat_in.encrypt),
      .wrote,
      .lengths(beat_in.lengths),
      .counter_block,
      .slot(message_slot)
  );

  // Stages 0 (counter block) to 10 (keystream); beats and data beside them
  logic [Rounds:0] stage_valid, stage_hash_key;
  tec_pkg::block_t keystream, data;
  logic [SlotBits-1:0] keystream_slot, loading_slot;

  always_ff @(posedge clk) begin
    if (rst) begin
      stage_valid    <= '0;
      stage_hash_key <= '0;
    end else if (advance) begin
      stage_valid    <= {stage_valid[Rounds-1:0], accept};
      stage_hash_key <= {stage_hash_key[Rounds-1:0], inject};
    end
  end
  delay_line #(.Width(128), .Depth(Rounds + 1)) data_line (.clk, .enable(advance), .d(in_data), .q(data));
  delay_line #(.Width(BeatBits), .Depth(Rounds + 1)) beat_line (.clk, .enable(advance), .d(beat_in), .q(beat));

  // Keys
  logic round_write, round_write_all, hash_write, arrival;
  logic [3:0] round_step;
  logic [SlotBits-1:0] round_slot, hash_slot;
  tec_pkg::block_t round_data, hash_key, hash_key_1, hash_key_2;

  assign arrival = advance && stage_hash_key[Rounds];
  key_loader #(.SlotBits(SlotBits)) keys (
      .clk,
      .rst,
      .wiping,
      .wipe_slot(wipe_count[SlotBits-1:0]),
      .key_valid,
      .key_clear,
      .key_slot,
      .key,
      .key_ready,
      .round_write,
      .round_write_all,
      .round_step,
      .round_slot,
      .round_data,
      .inject,
      .injected,
      .loading_slot,
      .arrival,
      .arrival_slot(keystream_slot),
      .arrival_block(keystream),
      .hash_write,
      .hash_slot,
      .hash_key,
      .live
  );
  aes_pipeline #(.SlotBits(SlotBits)) aes (
      .clk,
      .advance,
      .block(counter_block),
      .zero_block(stage_hash_key[0]),
      .slot(stage_hash_key[0] ? loading_slot : message_slot),
      .key_write(round_write),
      .key_write_all(round_write_all),
      .key_step(round_step),
      .key_slot(round_slot),
      .key_data(round_data),
      .keystream,
      .keystream_slot
  );
  slot_memory #(.SlotBits(SlotBits)) hash_keys_1 (
      .clk,
      .write(hash_write),
      .write_slot(hash_slot),
      .write_data(hash_key),
      .read_slot(keystream_slot),
      .read_data(hash_key_1)
  );
  slot_memory #(.SlotBits(SlotBits)) hash_keys_2 (
      .clk,
      .write(hash_write),
      .write_slot(hash_slot),
      .write_data(tec_pkg::reflect(tec_pkg::square(tec_pkg::reflect(hash_key)))),
      .read_slot(keystream_slot),
      .read_data(hash_key_2)
  );

  // Stage 10: data out of the cipher and into the hash
  logic is_data, is_tag, good;
  tec_pkg::block_t byte_mask, text, hashed, length_block, masked_hash;

  assign is_data = beat.kind == tec_pkg::KindData;
  assign is_tag  = beat.kind == tec_pkg::KindTag;
  assign good    = !beat.bad && live[keystream_slot];
  // The first `bytes` bytes, all of them for 0.
  logic [15:0] byte_select;
  assign byte_select = 16'hffff << (5'd16 - {beat.bytes == 4'd0, beat.bytes});
  for (genvar i = 0; i < 16; i++) begin : g_mask
    assign byte_mask[127-8*i-:8] = {8{byte_select[15-i]}};
  end
  assign text = (keystream ^ data) & byte_mask;
  assign length_block = {{61 - LengthBits{1'b0}}, beat.lengths[2*LengthBits-1:LengthBits], 3'b0,
                         {61 - LengthBits{1'b0}}, beat.lengths[LengthBits-1:0], 3'b0};
  assign hashed = is_tag ? length_block : (((is_data && beat.encrypt) ? keystream : '0) ^ data) & byte_mask;

  ghash #(.Base(Base), .Cut(Cut)) hash (
      .clk,
      .rst,
      .advance,
      .valid(stage_valid[Rounds]),
      .first(beat.first),
      .last(is_tag),
      .block(hashed),
      .power(is_tag ? hash_key_1 : hash_key_2),
      .mask(keystream ^ (beat.encrypt ? '0 : data)),
      .masked_hash
  );

  // Stages 11 and 12: data wait for the hash, so that beats leave in order
  logic late_valid, late_last, late_good, late_encrypt;
  logic [3:0] late_bytes;
  tec_pkg::block_t late_data;

  always_ff @(posedge clk) begin
    if (rst) begin
      late_valid <= 1'b0;
      late_data  <= '0;
      out_valid  <= 1'b0;
      out_last   <= 1'b0;
      out_ok     <= 1'b0;
      out_bytes  <= '0;
      out_data   <= '0;
    end else if (advance) begin
      late_valid   <= stage_valid[Rounds] && (is_data || is_tag);
      late_last    <= is_tag;
      late_good    <= good;
      late_encrypt <= beat.encrypt;
      late_bytes   <= beat.bytes;
      late_data    <= (stage_valid[Rounds] && is_data && good) ? text : '0;

      out_valid <= late_valid;
      out_last  <= late_valid && late_last;
      out_ok    <= late_valid && late_last && late_good && (late_encrypt || masked_hash == '0);
      out_bytes <= late_valid ? late_bytes : '0;
      if (late_valid && late_last) out_data <= (late_good && late_encrypt) ? masked_hash : '0;
      else out_data <= late_data;
    end
  end
endmodule
