// The random numbers of torch on a CPU: Mersenne Twister 19937, and float64 uniforms of 53 bits from two
// draws. With one seed this page and analysis/bandit.py see the same problems, arms and rewards.

const N = 624;

/** `rand(count)` → Float64Array like torch.rand(count, dtype=float64) of `torch.Generator().manual_seed(seed)`. */
export function generator(seed) {
  const state = new Uint32Array(N);
  state[0] = seed >>> 0;
  for (let i = 1; i < N; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  let at = N;

  function refill() {
    for (let i = 0; i < N; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % N] & 0x7fffffff);
      state[i] = state[(i + 397) % N] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    at = 0;
  }

  function word() {
    if (at === N) refill();
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  const uniform = () => {
    const high = word() & 0x1fffff,
      low = word(); // 53 bits of the two
    return (high * 4294967296 + low) / 9007199254740992;
  };

  return {
    uniform,
    rand: (count) => Float64Array.from({ length: count }, uniform),
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
  };
}
