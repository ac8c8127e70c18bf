// The memory test's kernels: fill, check, swap. One source, compiled by NVRTC for the card (tools/ptx.py writes
// memtest.ptx) and by the host's C++ compiler for the tests, which run it on memory that really aliases.
//
// Words are 64 bits. A word's place is its global index i: counted through all allocations of the test, so that a card
// whose upper half is the lower half cannot answer both with the same value. `base` is where the piece begins, `first`
// the index of its first word. Patterns (kind; operands a, b), kept equal in p104d/memtest/patterns.py:
//
//   0 HASH         lo = mix(i_lo ^ a_lo), hi = mix(lo ^ i_hi ^ a_hi), word = (hi, lo) ^ b. Every index has a word of
//                  its own, and a word found in the wrong place says for which index it was written.
//   1 ROTATE       a rotated left by (i * b) mod 64 bits: b = 0 is a constant, b = 1 a bit that walks with the address
//   2 MODULO_OWN   only the words with i mod 20 == b: a
//   3 MODULO_REST  only the others: a
//
// Demanded of the caller: `base` aligned to 16 bytes, `first` and `words` even, cell_shift 1 to 31.
//
// Why so: a P104-100 moves 320 GB/s, which are 40 words every nanosecond, and does about 3000 32-bit integer operations
// in that time, shifts half as many, and a 32-bit multiplication takes three. That leaves some 40 operations a word for
// everything; hence 32-bit arithmetic in the loops, and what belongs to 64 bits worked out once for each tile.

typedef unsigned int u32;
typedef unsigned long long u64;

#if defined(__CUDACC__)

#define INLINE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(256)
#define THREAD threadIdx.x
#define THREADS blockDim.x
#define BLOCK blockIdx.x
#define BLOCKS gridDim.x
typedef ulonglong2 Pair;

// .cg: past the first-level cache, so that what is compared came at least from L2. (All memory is written before any of
// it is read, so L2 holds none of it any more either.) .cs: written and not needed again.
INLINE Pair load(const Pair *place) { return __ldcg(place); }
INLINE void store(Pair *place, Pair value) { __stcs(place, value); }
INLINE void store_word(u64 *place, u64 value) { __stcs(place, value); }
INLINE u32 left(u32 high, u32 low, u32 bits) { return __funnelshift_l(low, high, bits); }
INLINE void atomic_add(u64 *place, u64 value) { atomicAdd(place, value); }
INLINE void atomic_or(u64 *place, u64 value) { atomicOr(place, value); }
INLINE void atomic_max(u64 *place, u64 value) { atomicMax(place, value); }

#else  // The host: threads run one after another; who includes this file says which one runs, in `self`.

#define INLINE static inline
#define KERNEL static void
#define THREAD self.thread
#define THREADS self.threads
#define BLOCK self.block
#define BLOCKS self.blocks
struct alignas(16) Pair { u64 x, y; };

INLINE Pair load(const Pair *place) { return *place; }
INLINE void store(Pair *place, Pair value) { *place = value; }
INLINE void store_word(u64 *place, u64 value) { *place = value; }
INLINE u32 left(u32 high, u32 low, u32 bits) { return (u32)((((u64)high << 32 | low) << (bits & 31)) >> 32); }
INLINE void atomic_add(u64 *place, u64 value) { *place += value; }
INLINE void atomic_or(u64 *place, u64 value) { *place |= value; }
INLINE void atomic_max(u64 *place, u64 value) { if (*place < value) *place = value; }

#endif

enum { HASH, ROTATE, MODULO_OWN, MODULO_REST, ANY };  // ANY: told by Pattern::kind when it runs

// Words of a record, one record a cell. Zero is "nothing", and records are merged by add, or and max.
enum { ERRORS, ONES, ZEROS, NAND, FIRST_INVERTED, LAST_PLUS1, ALIASED, DELTA_MAX, DELTA_MIN, RECORD_WORDS };

// A block works tile by tile, not on a whole cell: 128 KiB tiles keep the part of memory that is being worked on small
// (fewer TLB misses) and all multiprocessors busy to the end of a piece. Tiles never cross a cell's border.
#define TILE_SHIFT 14
#define DELTA_ZERO (1ull << 62)

// --- patterns ----------------------------------------------------------------------------------------------------

// MurmurHash3's 32-bit finalizer (Austin Appleby, public domain): every bit of x changes half of the result's bits, and
// no two x have the same result.
INLINE u32 mix(u32 x) {
    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    x *= 0xc2b2ae35u;
    return x ^ x >> 16;
}

// mix backwards: the factors are the inverses modulo 2^32, and x ^ x >> 13 is undone in two terms (39 bits are enough).
INLINE u32 unmix(u32 x) {
    x ^= x >> 16;
    x *= 0x7ed1b41du;
    x ^= x >> 13 ^ x >> 26;
    x *= 0xa5cb9243u;
    return x ^ x >> 16;
}

INLINE u32 low(u64 word) { return (u32)word; }
INLINE u32 high(u64 word) { return (u32)(word >> 32); }
INLINE u64 join(u32 high, u32 low) { return (u64)high << 32 | low; }

struct Pattern {
    u32 kind;
    u64 a, b;
    u32 salt;  // i_hi ^ a_hi: the same in a whole tile, for no tile crosses a multiple of 2^32 words
};

INLINE u64 rotated(u64 a, u32 bits) {
    u32 up = bits & 32 ? low(a) : high(a);
    u32 down = bits & 32 ? high(a) : low(a);
    return join(left(up, down, bits & 31), left(down, up, bits & 31));
}

template <int K> INLINE u64 word_of(const Pattern &p, u32 i) {
    const u32 kind = K == ANY ? p.kind : K;
    if (kind == HASH) {
        u32 lo = mix(i ^ low(p.a));
        return join(mix(lo ^ p.salt), lo) ^ p.b;
    }
    return kind == ROTATE ? rotated(p.a, i * low(p.b)) : p.a;
}

template <int K> INLINE bool touches(const Pattern &p, u32 rest) {
    const u32 kind = K == ANY ? p.kind : K;
    if (kind == MODULO_OWN) return rest == low(p.b);
    if (kind == MODULO_REST) return rest != low(p.b);
    return true;
}

// The index that a word of kind HASH was written for.
INLINE u64 index_of(const Pattern &p, u64 observed) {
    observed ^= p.b;
    u32 lo = low(observed);
    return join(unmix(high(observed)) ^ lo ^ high(p.a), unmix(lo) ^ low(p.a));
}

// --- tiles -------------------------------------------------------------------------------------------------------

struct Tile {
    Pair *begin;
    u64 index;  // of the first word
    u32 pairs;
};

INLINE u64 tiles_of(u64 words, u64 first, u32 shift) {
    return words ? ((first + words - 1) >> shift) - (first >> shift) + 1 : 0;
}

// Tile number n of a piece. Tiles are cut at multiples of 2^shift of the *index*, so the first may be a short one.
INLINE Tile tile_at(u64 base, u64 words, u64 first, u32 shift, u64 n) {
    u64 begin = ((first >> shift) + n) << shift;
    u64 end = begin + (1ull << shift);
    if (begin < first) begin = first;
    if (end > first + words) end = first + words;
    Tile tile;
    tile.begin = (Pair *)(base + (begin - first) * 8);
    tile.index = begin;
    tile.pairs = (u32)((end - begin) >> 1);
    return tile;
}

INLINE u32 tile_shift(u32 cell_shift) { return cell_shift < TILE_SHIFT ? cell_shift : TILE_SHIFT; }

// i mod 20 while i goes on by a fixed step (or, descending, back): two operations instead of a division.
struct Rest {
    u32 now, step;
};

INLINE Rest rest_of(u64 index, u32 step) {
    Rest rest;
    rest.now = (u32)(index % 20);
    rest.step = step % 20;
    return rest;
}

INLINE void advance(Rest &rest) {
    rest.now += rest.step;
    if (rest.now >= 20) rest.now -= 20;
}

// A pair begins at an even word, and 20 is even: the first is never 19.
INLINE u32 next_rest(u32 rest) { return rest + 1; }

// --- findings ----------------------------------------------------------------------------------------------------

// One thread's findings in one tile, in registers: on a card with a fault in every word, atomics for each of them would
// take hours. Places are 32-bit offsets from the tile's first word to save registers.
struct Findings {
    u32 errors, aliased, first, last;
    u64 ones, zeros, nand, delta_max, delta_min;
};

INLINE Findings nothing() {
    Findings f = {0, 0, ~0u, 0, 0, 0, 0, 0, 0};
    return f;
}

INLINE u64 larger(u64 a, u64 b) { return a > b ? a : b; }

template <int K>
INLINE void note(Findings &f, const Pattern &p, u64 tile, u32 offset, u64 observed, u64 expected, u64 total_words) {
    f.errors++;
    f.ones |= observed & ~expected;
    f.zeros |= expected & ~observed;
    f.nand |= ~(observed ^ expected);
    if (f.first > offset) f.first = offset;
    if (f.last < offset) f.last = offset;
    if ((K == ANY ? p.kind : K) != HASH) return;
    u64 written_for = index_of(p, observed);  // not this word's own index, or the word would be right
    if (written_for >= total_words) return;
    u64 delta = written_for - (tile + offset);
    f.aliased++;
    f.delta_max = larger(f.delta_max, DELTA_ZERO + delta);
    f.delta_min = larger(f.delta_min, DELTA_ZERO - delta);
}

INLINE void add(u64 *records, u32 cell_shift, const Tile &tile, const Findings &f) {
    if (!f.errors) return;
    u64 *record = records + (tile.index >> cell_shift) * RECORD_WORDS;
    atomic_add(record + ERRORS, f.errors);
    atomic_or(record + ONES, f.ones);
    atomic_or(record + ZEROS, f.zeros);
    atomic_or(record + NAND, f.nand);
    atomic_max(record + FIRST_INVERTED, ~(tile.index + f.first));
    atomic_max(record + LAST_PLUS1, tile.index + f.last + 1);
    if (!f.aliased) return;
    atomic_add(record + ALIASED, f.aliased);
    atomic_max(record + DELTA_MAX, f.delta_max);
    atomic_max(record + DELTA_MIN, f.delta_min);
}

template <int K>
INLINE void compare(Findings &f, const Pattern &p, const Tile &tile, u32 pair, u32 rest, Pair found, u64 total) {
    const u32 i = low(tile.index) + 2 * pair;
    const u64 x = word_of<K>(p, i), y = word_of<K>(p, i + 1);
    if (found.x != x && touches<K>(p, rest)) note<K>(f, p, tile.index, 2 * pair, found.x, x, total);
    if (found.y != y && touches<K>(p, next_rest(rest))) note<K>(f, p, tile.index, 2 * pair + 1, found.y, y, total);
}

template <int K> INLINE void write(const Pattern &p, const Tile &tile, u32 pair, u32 rest) {
    const u32 i = low(tile.index) + 2 * pair;
    Pair value;
    value.x = word_of<K>(p, i);
    value.y = word_of<K>(p, i + 1);
    const bool x = touches<K>(p, rest), y = touches<K>(p, next_rest(rest));
    if (x && y) return store(tile.begin + pair, value);
    u64 *place = (u64 *)(tile.begin + pair);
    if (x) store_word(place, value.x);
    if (y) store_word(place + 1, value.y);
}

// --- loops -------------------------------------------------------------------------------------------------------

template <int K> INLINE void fill_tile(const Pattern &p, const Tile &tile) {
    Rest rest = rest_of(tile.index + 2 * THREAD, 2 * THREADS);
    for (u32 pair = THREAD; pair < tile.pairs; pair += THREADS) {
        write<K>(p, tile, pair, rest.now);
        advance(rest);
    }
}

// The next pair is asked for before this one is looked at: twice the bytes on the way from memory, which a card needs
// when its registers leave room for little more than half of the threads that it could run.
template <int K> INLINE void check_tile(const Pattern &p, const Tile &tile, u64 *records, u32 cell_shift, u64 total) {
    if (THREAD >= tile.pairs) return;
    Findings f = nothing();
    Rest rest = rest_of(tile.index + 2 * THREAD, 2 * THREADS);
    Pair next = load(tile.begin + THREAD);
    for (u32 pair = THREAD; pair < tile.pairs; pair += THREADS) {
        const Pair found = next;
        if (pair + THREADS < tile.pairs) next = load(tile.begin + pair + THREADS);
        compare<K>(f, p, tile, pair, rest.now, found, total);
        advance(rest);
    }
    add(records, cell_shift, tile, f);
}

// Upwards or downwards through the tile: `pair` is what this thread works on, and downwards it counts from the end.
// Nothing is read ahead here: a word is read after the one before it was written, which is what the direction is for.
// (Half of what moves are writes, so half as many reads on their way are enough.)
template <int K, int K2>
INLINE void swap_tile(const Pattern &p, const Pattern &p2, const Tile &tile, u64 *records, u32 cell_shift, u64 total,
                      u32 descending) {
    if (THREAD >= tile.pairs) return;
    Findings f = nothing();
    const u32 start = descending ? tile.pairs - 1 - THREAD : THREAD;
    const u32 step = descending ? 0u - THREADS : THREADS;
    // A step back by 2 * THREADS is one forward by 20 - (2 * THREADS mod 20), modulo 20.
    Rest rest = rest_of(tile.index + 2 * start, descending ? 20 - 2 * THREADS % 20 : 2 * THREADS);
    u32 pair = start;
    for (u32 done = THREAD; done < tile.pairs; done += THREADS) {
        compare<K>(f, p, tile, pair, rest.now, load(tile.begin + pair), total);
        write<K2>(p2, tile, pair, rest.now);
        pair += step;
        advance(rest);
    }
    add(records, cell_shift, tile, f);
}

INLINE Pattern pattern(u32 kind, u64 a, u64 b, u64 index) {
    Pattern p = {kind, a, b, high(index) ^ high(a)};
    return p;
}

template <int K> INLINE void fill_piece(u64 base, u64 words, u64 first, u64 a, u64 b) {
    const u64 tiles = tiles_of(words, first, TILE_SHIFT);
    for (u64 n = BLOCK; n < tiles; n += BLOCKS) {
        const Tile tile = tile_at(base, words, first, TILE_SHIFT, n);
        fill_tile<K>(pattern(K, a, b, tile.index), tile);
    }
}

template <int K>
INLINE void check_piece(u64 base, u64 words, u64 first, u64 a, u64 b, u64 *records, u32 cell_shift, u64 total) {
    const u32 shift = tile_shift(cell_shift);
    const u64 tiles = tiles_of(words, first, shift);
    for (u64 n = BLOCK; n < tiles; n += BLOCKS) {
        const Tile tile = tile_at(base, words, first, shift, n);
        check_tile<K>(pattern(K, a, b, tile.index), tile, records, cell_shift, total);
    }
}

template <int K, int K2>
INLINE void swap_piece(u64 base, u64 words, u64 first, u32 kind, u64 a, u64 b, u32 kind2, u64 a2, u64 b2, u64 *records,
                       u32 cell_shift, u64 total, u32 descending) {
    const u32 shift = tile_shift(cell_shift);
    const u64 tiles = tiles_of(words, first, shift);
    for (u64 n = BLOCK; n < tiles; n += BLOCKS) {
        const Tile tile = tile_at(base, words, first, shift, descending ? tiles - 1 - n : n);
        swap_tile<K, K2>(pattern(kind, a, b, tile.index), pattern(kind2, a2, b2, tile.index), tile, records, cell_shift,
                         total, descending);
    }
}

// --- entries: what kind it is, is asked once and not for every word -----------------------------------------------

KERNEL fill(u64 base, u64 words, u64 first, u32 kind, u64 a, u64 b) {
    if (kind == HASH) fill_piece<HASH>(base, words, first, a, b);
    if (kind == ROTATE) fill_piece<ROTATE>(base, words, first, a, b);
    if (kind == MODULO_OWN) fill_piece<MODULO_OWN>(base, words, first, a, b);
    if (kind == MODULO_REST) fill_piece<MODULO_REST>(base, words, first, a, b);
}

KERNEL check(u64 base, u64 words, u64 first, u32 kind, u64 a, u64 b, u64 *records, u32 cell_shift, u64 total_words) {
    if (kind == HASH) check_piece<HASH>(base, words, first, a, b, records, cell_shift, total_words);
    if (kind == ROTATE) check_piece<ROTATE>(base, words, first, a, b, records, cell_shift, total_words);
    if (kind == MODULO_OWN) check_piece<MODULO_OWN>(base, words, first, a, b, records, cell_shift, total_words);
    if (kind == MODULO_REST) check_piece<MODULO_REST>(base, words, first, a, b, records, cell_shift, total_words);
}

KERNEL swap(u64 base, u64 words, u64 first, u32 kind, u64 a, u64 b, u32 kind2, u64 a2, u64 b2, u64 *records,
            u32 cell_shift, u64 total, u32 descending) {
    if (kind == HASH && kind2 == HASH)
        swap_piece<HASH, HASH>(base, words, first, kind, a, b, kind2, a2, b2, records, cell_shift, total,
                               descending);
    else if (kind == ROTATE && kind2 == ROTATE)
        swap_piece<ROTATE, ROTATE>(base, words, first, kind, a, b, kind2, a2, b2, records, cell_shift, total,
                                   descending);
    else
        swap_piece<ANY, ANY>(base, words, first, kind, a, b, kind2, a2, b2, records, cell_shift, total,
                             descending);
}
