// Ten AES-128 rounds, one register a round: a block a cycle, each with the key of its own slot.
// Round keys lie in LUT RAM beside their round, so that a message may follow one under another key without a gap.
(* keep_hierarchy *)
module aes_pipeline #(
    parameter int SlotBits = 4
) (
    input  logic                clk,
    input  logic                advance,
    // the block in stage 0 and its slot; zero_block encrypts 0 instead, for the hash key
    input  tec_pkg::block_t              block,
    input  logic                zero_block,
    input  logic [SlotBits-1:0] slot,
    // round keys in
    input  logic                key_write,
    input  logic                key_write_all,
    input  logic [         3:0] key_step,
    input  logic [SlotBits-1:0] key_slot,
    input  tec_pkg::block_t              key_data,
    // ten stages later
    output tec_pkg::block_t              keystream,
    output logic [SlotBits-1:0] keystream_slot
);
  tec_pkg::block_t round_key[11];
  tec_pkg::block_t state[11];
  logic [SlotBits-1:0] stage_slot[11];

  for (genvar i = 0; i < 11; i++) begin : g_key
    // The whitening key and round 1's are both used on the block in stage 0; round i's on that in stage i - 1.
    slot_memory #(.SlotBits(SlotBits)) keys (
        .clk,
        .write(key_write && (key_write_all || key_step == i)),
        .write_slot(key_slot),
        .write_data(key_data),
        .read_slot(stage_slot[i==0 ? 0 : i-1]),
        .read_data(round_key[i])
    );
  end

  assign stage_slot[0] = slot;
  assign state[0] = (zero_block ? '0 : block) ^ round_key[0];

  for (genvar i = 1; i < 11; i++) begin : g_round
    tec_pkg::block_t next;
    aes_round #(.Final(i == 10)) one (
        .state(state[i-1]),
        .round_key(round_key[i]),
        .next
    );
    always_ff @(posedge clk) begin
      if (advance) begin
        state[i]      <= next;
        stage_slot[i] <= stage_slot[i-1];
      end
    end
  end

  assign keystream = state[10];
  assign keystream_slot = stage_slot[10];
endmodule
