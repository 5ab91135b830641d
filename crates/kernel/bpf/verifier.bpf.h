/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Instructions that are written out, for the verifier's sake or to keep the compiler from changing them, all in one
 * place: where the programs are compiled for the host (tests/host.c), they mean the same in plain C.
 */
#ifndef BLACKSTART_VERIFIER_H
#define BLACKSTART_VERIFIER_H

#ifdef __bpf__

/* Bound a number where the compiler has dropped, or would drop, the bound that it knows of. `most` is a literal in the one,
 * and what comes to a constant in the other. */
#define BS_MASK(x, most) asm volatile("%0 &= " #most : "+r"(x))
#define BS_MASK_BY(x, most) asm volatile("%0 &= %1" : "+r"(x) : "i"(most))

/* Make the verifier forget what it knows of a number, so that the paths through a loop converge. */
#define BS_FORGET(x, unknown) asm volatile("%0 ^= %1; %0 ^= %1" : "+r"(x) : "r"(unknown))

/* Show the verifier that what a global function returned is 0 or 1. A comparison does not: clang 22 sees into the
 * function, finds that it is so, and leaves the comparison out. */
#define BS_BIT(x) asm volatile("%0 &= 1" : "+r"(x))

/* 1 if the sign bit is set, else 0: arithmetic where a branch would double what there is to verify, and which the compiler
 * must not turn back into one. */
static __always_inline __u64 bs_sign(__u64 x)
{
	asm volatile("%0 >>= 63" : "+r"(x));
	return x;
}

#else

#define BS_MASK(x, most) ((void)((x) &= (most)))
#define BS_MASK_BY(x, most) BS_MASK(x, most)
#define BS_FORGET(x, unknown) ((void)(unknown))
#define BS_BIT(x) ((void)((x) &= 1))

static __always_inline __u64 bs_sign(__u64 x)
{
	return x >> 63;
}

#endif

#endif
