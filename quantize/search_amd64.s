#include "textflag.h"

// Adds the eight sums of a register as tree does.
#define TREE(y, x, xtmp) \
	VEXTRACTF128 $1, y, xtmp;    \
	VADDPS       xtmp, x, x;     \
	VMOVHLPS     x, x, xtmp;     \
	VADDPS       xtmp, x, x;     \
	VMOVSHDUP    x, xtmp;        \
	VADDSS       xtmp, x, x

// func sumsAVX2(s *sum, t *trial, trials int, w *float32, weights int)
//
// Two trials a turn: with their four sums the additions of one do not wait for those of another.
TEXT ·sumsAVX2(SB), NOSPLIT, $0-40
	MOVQ s+0(FP), DI
	MOVQ t+8(FP), DX
	MOVQ trials+16(FP), R8
	MOVQ w+24(FP), R9
	MOVQ weights+32(FP), R10

pair:
	VBROADCASTSS 0(DX), Y0  // recip, lo, hi
	VBROADCASTSS 4(DX), Y1
	VBROADCASTSS 8(DX), Y2
	VBROADCASTSS 12(DX), Y3
	VBROADCASTSS 16(DX), Y4
	VBROADCASTSS 20(DX), Y5
	VXORPS       Y6, Y6, Y6 // Σqw, Σq²
	VXORPS       Y7, Y7, Y7
	VXORPS       Y8, Y8, Y8
	VXORPS       Y9, Y9, Y9
	MOVQ         R9, SI
	MOVQ         R10, CX

loop:
	VMOVUPS  (SI), Y10
	VMULPS   Y0, Y10, Y11
	VMULPS   Y3, Y10, Y12
	VROUNDPS $0, Y11, Y11   // to nearest, to even in a tie
	VROUNDPS $0, Y12, Y12
	VMAXPS   Y1, Y11, Y11
	VMAXPS   Y4, Y12, Y12
	VMINPS   Y2, Y11, Y11
	VMINPS   Y5, Y12, Y12
	VMULPS   Y11, Y10, Y13
	VMULPS   Y12, Y10, Y14
	VMULPS   Y11, Y11, Y11
	VMULPS   Y12, Y12, Y12
	VADDPS   Y13, Y6, Y6
	VADDPS   Y14, Y8, Y8
	VADDPS   Y11, Y7, Y7
	VADDPS   Y12, Y9, Y9
	ADDQ     $32, SI
	SUBQ     $8, CX
	JNE      loop

	TREE(Y6, X6, X10)
	TREE(Y7, X7, X11)
	TREE(Y8, X8, X12)
	TREE(Y9, X9, X13)
	VMOVSS X6, 0(DI)
	VMOVSS X7, 4(DI)
	VMOVSS X8, 8(DI)
	VMOVSS X9, 12(DI)
	ADDQ   $24, DX
	ADDQ   $16, DI
	SUBQ   $2, R8
	JNE    pair
	VZEROUPPER
	RET
