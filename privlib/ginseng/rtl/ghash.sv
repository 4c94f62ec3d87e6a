// GHASH (SP 800-38D, section 6.4), a block a cycle through a multiplier of two stages.
// Blocks of even and of odd place accumulate apart, each multiplied by H^2; the last, the length block, by H. Their sum is
// then the hash: block i of n has been multiplied n - i times by H.
(* keep_hierarchy *)
module ghash #(
    parameter int Base = 8,
    parameter int Cut  = 32
) (
    input  logic   clk,
    input  logic   rst,
    input  logic   advance,
    input  logic   valid,
    input  logic   first,
    input  logic   last,
    input  tec_pkg::block_t block,
    input  tec_pkg::block_t power,   // H^2, or H with `last`
    input  tec_pkg::block_t mask,    // added to the hash of the message that ends here
    output tec_pkg::block_t masked_hash  // one advance after `last`
);
  logic arriving;  // stage 2 holds a product
  tec_pkg::block_t product, following, other, newest, total;
  logic [254:0] wide;

  // Kept reflected (bit 0 is x^0) from here to the output.
  clmul #(.Width(128), .Base(Base), .Cut(Cut)) multiplier (
      .clk,
      .enable(advance),
      .a(tec_pkg::reflect(block) ^ (first ? '0 : following)),
      .b(tec_pkg::reflect(power)),
      .product(wide)
  );
  assign product = tec_pkg::reduce(wide);

  // `newest` is the last block's product; `following` the one before it, which the next block must be added to.
  assign newest = arriving ? product : other;
  always_ff @(posedge clk) begin
    if (rst) begin
      arriving  <= 1'b0;
      following <= '0;
      other     <= '0;
      total     <= '0;
    end else if (advance) begin
      arriving <= valid;
      if (valid) following <= first ? '0 : newest;
      if (arriving && !valid) other <= product;
      if (valid && last) total <= tec_pkg::reflect(mask) ^ (first ? '0 : newest);
    end
  end
  assign masked_hash = tec_pkg::reflect(total ^ product);
endmodule
