"""Why a compiled step has the sensitivity that the accountant is told: a proof sketch, step by step, rounding included.

Claim. Let D and D' differ by one example. One `update` after the physical batches of one `draw` releases M(D) = Q(S +
Z), with S the sum on the grid, Z the noise, Q a function of the integer S + Z and of earlier releases. The draws of D
and D' can be paired so that, given the pair, S is equal where the example is not drawn, and elsewhere differs by at
most

    Δ = C · (1 + 2·m²·u) + 2 · √d · step,        σ_effective = noise_multiplier · C / Δ   (`effective_noise_multiplier`)

(C = max_grad_norm, m examples in a physical batch, u = 2⁻²⁴ in float32, d trainable coordinates, `step` the grid's).
So M is dominated by the Poisson-sampled (or allocated) Gaussian mechanism of multiplier σ_effective, which is what
sampler.event and the ledger record.

1. **An example's gradient depends on that example alone.** `differentiate` follows every value from the input and
   refuses operators that may mix examples; batch normalization is refused. K views of one example are averaged before
   the norm.

2. **Clipped.** The factor min(1, C/(1+η) / n) (or C/(1+η) / n, "normalize") is taken from a norm n that is too small
   by at most a factor 1 + η₀, η₀ = `gram.margin` where norms come from Gram matrices, else 0, and 2048·u for adding
   squares. `clipping_margin`: η = 2·m²·u + 2048·u + max η₀. A norm that is not finite makes the factor 0, and a
   factor of 0 leaves a row out altogether (0 · NaN is never formed), so such an example contributes exactly zero.
   Masked rows likewise. "normalize" takes a norm up to 10⁻¹² for zero: squares of so small elements underflow, the
   norm would be too small, and what is scaled by it too long.

3. **Summed in float32.** m additions move a physical batch's sum by at most m·u times the sum of norms, at most
   m²·u·C. Removing one row can change that rounding for the whole batch, on either side: 2·m²·u·C a batch. Kernels
   are deterministic, so a physical batch with the same rows at the same places gives the same bits.

4. **At most two physical batches differ.** A draw is put in a uniformly random order before it is cut
   (`privlib.trusted.sampling`). From an order of the sample with the example, the order without it is made by moving
   the last element into the example's place: that is uniform again, so it is a pairing of the two draws. It changes
   the example's batch and the last one. Cutting in dataset order would shift every later batch and pay the rounding
   of each. η pays 2·m²·u·C for one, Δ adds the same for the other. Random allocation: the same in each step the
   example is in. Replacing an example changes one row in place.

5. **Rounded to the grid.** Each fold of a batch sum moves a coordinate by at most step/2 on either side; two batches
   differ: 2 · √d · step at most, √d for the L2 norm. Sums are int64: |S| < 2⁶¹ (`NoiseGrid`), no addition wraps
   around. A batch sum with a coordinate that is not finite, or 2⁶¹ steps or more, could not come from clipped
   examples (2., 3.).

6. **Noise of standard deviation noise_multiplier · C on the sum,** rounded to the same grid, added as integers, once
   an update however many physical batches. Rounding commutes with a shift by an integer, so S + Z is post-processing
   of the continuous Gaussian mechanism on S. What is left between Z and an ideal Gaussian, below d · 4·10⁻¹⁵ a step
   in total variation: `privlib.compiler.kernels.noise`. It is not added to δ: it matters only where δ is of that
   size.

7. **Fresh noise.** A new 256-bit key from the operating system for each update, used for one nonce, one stream of at
   most 2³² blocks. A test key makes noise repeatable and `step.private` false.

8. **Everything after is post-processing:** division by the public expected batch size, never by a count of the data;
   momentum, weight decay, learning rate (a function of the step number), averages. An empty draw is an update as
   well.

9. **Over steps** the mechanism is chosen adaptively from earlier releases, which accountants of composition allow.
   The ledger has the event on disk before the draw.

What the claim does not cover. Losses, accuracy on training data, `examples` and `rejected` are not noised, nor are a
step's duration, its number of physical batches (unless the sampler fixes it), and memory traffic: they are for eyes
that may see the data, and `privlib.trusted` keeps them in. Choosing hyperparameters on the data is not charged.

Where the sketch leans on what is not a worst case. `gram.margin` grows with the square root of the number of terms,
as errors that do not conspire do; it is tested with adversarial inputs, not proved. Step 3 counts m additions, while
a weight gradient formed for the whole batch at once ("gram", and "instantiate" whose gradients are not kept) adds m·T
terms, T positions, and their rounding is relative to the terms, not to their sum. Where each example's gradient is
kept, the norm is taken of exactly what is summed, and neither applies.
"""
