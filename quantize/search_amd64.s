#include "go_asm.h"
#include "textflag.h"

// Adds the eight sums of a register as tree does.
#define TREE(y, x, xtmp) \
	VEXTRACTF128 $1, y, xtmp;    \
	VADDPS       xtmp, x, x;     \
	VMOVHLPS     x, x, xtmp;     \
	VADDPS       xtmp, x, x;     \
	VMOVSHDUP    x, xtmp;        \
	VADDSS       xtmp, x, x

// Begins with two trials at DX: with their four sums the additions of one do not wait for those of another.
#define PAIR \
	VBROADCASTSS trials_recip+0(DX), Y0; \
	VBROADCASTSS trials_lo+0(DX), Y1;    \
	VBROADCASTSS trials_hi+0(DX), Y2;    \
	VBROADCASTSS trials_recip+4(DX), Y3; \
	VBROADCASTSS trials_lo+4(DX), Y4;    \
	VBROADCASTSS trials_hi+4(DX), Y5;    \
	VXORPS       Y6, Y6, Y6;             \
	VXORPS       Y7, Y7, Y7;             \
	VXORPS       Y8, Y8, Y8;             \
	VXORPS       Y9, Y9, Y9

// The levels Y11 and Y12 of eight weights, Y10: to nearest, to even in a tie.
#define LEVELS \
	VMULPS   Y0, Y10, Y11;  \
	VMULPS   Y3, Y10, Y12;  \
	VROUNDPS $0, Y11, Y11;  \
	VROUNDPS $0, Y12, Y12;  \
	VMAXPS   Y1, Y11, Y11;  \
	VMAXPS   Y4, Y12, Y12;  \
	VMINPS   Y2, Y11, Y11;  \
	VMINPS   Y5, Y12, Y12

// Adds products with the weights, Y13 and Y14, and squares, Y11 and Y12.
#define ADD \
	VADDPS Y13, Y6, Y6; \
	VADDPS Y14, Y8, Y8; \
	VADDPS Y11, Y7, Y7; \
	VADDPS Y12, Y9, Y9

// Stores the sums of two trials and goes on to the next two.
#define STORE \
	TREE(Y6, X6, X10);            \
	TREE(Y7, X7, X11);            \
	TREE(Y8, X8, X12);            \
	TREE(Y9, X9, X13);            \
	VMOVSS X6, trials_qw+0(DX);   \
	VMOVSS X7, trials_qq+0(DX);   \
	VMOVSS X8, trials_qw+4(DX);   \
	VMOVSS X9, trials_qq+4(DX);   \
	ADDQ   $8, DX;                \
	SUBQ   $2, R8

// Finds the trial at DI that explains most, as compare does. Numbers that are not negative are in the order of their
// bits; NaN of a trial that there is none, and what is not finite, become 0.
#define COMPARE \
	VMOVUPS      trials_qw+0(DI), Y0;      \
	VMOVUPS      trials_qw+32(DI), Y1;     \
	VMULPS       Y0, Y0, Y0;               \
	VMULPS       Y1, Y1, Y1;               \
	VDIVPS       trials_qq+0(DI), Y0, Y0;  \
	VDIVPS       trials_qq+32(DI), Y1, Y1; \
	VPBROADCASTD infinity<>(SB), Y2;       \
	VPCMPGTD     Y0, Y2, Y3;               \
	VPCMPGTD     Y1, Y2, Y4;               \
	VPAND        Y3, Y0, Y0;               \
	VPAND        Y4, Y1, Y1;               \
	VPXOR        Y2, Y2, Y2;               \
	VPMAXSD      Y2, Y0, Y0;               \
	VPMAXSD      Y2, Y1, Y1;               \
	VPMAXSD      Y0, Y1, Y2;               \
	VEXTRACTI128 $1, Y2, X3;               \
	VPMAXSD      X2, X3, X2;               \
	VPSHUFD      $0x4e, X2, X3;            \
	VPMAXSD      X2, X3, X2;               \
	VPSHUFD      $0xb1, X2, X3;            \
	VPMAXSD      X2, X3, X2;               \
	VMOVSS       X2, trials_most(DI);      \
	VPBROADCASTD X2, Y2;                   \
	VPCMPEQD     Y0, Y2, Y0;               \
	VPCMPEQD     Y1, Y2, Y1;               \
	VMOVMSKPS    Y0, AX;                   \
	VMOVMSKPS    Y1, BX;                   \
	SHLQ         $8, BX;                   \
	ORQ          BX, AX;                   \
	BSFQ         AX, AX;                   \
	MOVQ         AX, trials_at(DI)

DATA infinity<>+0(SB)/4, $0x7f800000
GLOBL infinity<>(SB), RODATA|NOPTR, $4

// func sumsAVX2(t *trials, w *float32, weights int)
TEXT ·sumsAVX2(SB), NOSPLIT, $0-24
	MOVQ t+0(FP), DI
	MOVQ w+8(FP), R9
	MOVQ weights+16(FP), R10
	MOVQ trials_n(DI), R8
	MOVQ DI, DX

pair:
	PAIR
	MOVQ R9, SI
	MOVQ R10, CX

loop:
	VMOVUPS (SI), Y10
	LEVELS
	VMULPS  Y11, Y10, Y13
	VMULPS  Y12, Y10, Y14
	VMULPS  Y11, Y11, Y11
	VMULPS  Y12, Y12, Y12
	ADD
	ADDQ    $32, SI
	SUBQ    $8, CX
	JNE     loop

	STORE
	JGT     pair

	COMPARE
	VZEROUPPER
	RET

// func weightedSumsAVX2(t *trials, w, counts *float32, weights int)
TEXT ·weightedSumsAVX2(SB), NOSPLIT, $0-32
	MOVQ t+0(FP), DI
	MOVQ w+8(FP), R9
	MOVQ counts+16(FP), R11
	MOVQ weights+24(FP), R10
	MOVQ trials_n(DI), R8
	MOVQ DI, DX

pair:
	PAIR
	MOVQ R9, SI
	MOVQ R11, BX
	MOVQ R10, CX

loop:
	VMOVUPS (SI), Y10
	VMOVUPS (BX), Y15
	LEVELS
	VMULPS  Y11, Y15, Y13 // count · q
	VMULPS  Y12, Y15, Y14
	VMULPS  Y13, Y11, Y11
	VMULPS  Y14, Y12, Y12
	VMULPS  Y13, Y10, Y13
	VMULPS  Y14, Y10, Y14
	ADD
	ADDQ    $32, SI
	ADDQ    $32, BX
	SUBQ    $8, CX
	JNE     loop

	STORE
	JGT     pair

	COMPARE
	VZEROUPPER
	RET

// Where the levels of eight weights stand in 32 bits.
DATA places<>+0(SB)/8, $0x0000000400000000
DATA places<>+8(SB)/8, $0x0000000c00000008
DATA places<>+16(SB)/8, $0x0000001400000010
DATA places<>+24(SB)/8, $0x0000001c00000018
GLOBL places<>(SB), RODATA|NOPTR, $32

DATA top4<>+0(SB)/4, $0x41700000 // 15.0
GLOBL top4<>(SB), RODATA|NOPTR, $4

// Levels of eight weights, each at its place.
#define PLACE(off, y) \
	VMULPS     off(SI), Y0, y; \
	VADDPS     Y1, y, y;       \
	VMAXPS     Y2, y, y;       \
	VMINPS     Y3, y, y;       \
	VCVTTPS2DQ y, y;           \
	VPSLLVD    Y4, y, y

// func pack4CutAVX2(dst *byte, w *float32, weights int, recip, bias float32)
//
// Levels that stand at different places of 32 bits are joined by adding them.
TEXT ·pack4CutAVX2(SB), NOSPLIT, $0-32
	MOVQ         dst+0(FP), DI
	MOVQ         w+8(FP), SI
	MOVQ         weights+16(FP), CX
	VBROADCASTSS recip+24(FP), Y0
	VBROADCASTSS bias+28(FP), Y1
	VXORPS       Y2, Y2, Y2
	VBROADCASTSS top4<>(SB), Y3
	VMOVDQU      places<>(SB), Y4

loop:
	PLACE(0, Y5)
	PLACE(32, Y6)
	PLACE(64, Y7)
	PLACE(96, Y8)
	VPHADDD      Y6, Y5, Y5
	VPHADDD      Y8, Y7, Y7
	VPHADDD      Y7, Y5, Y5
	VEXTRACTI128 $1, Y5, X6
	VPADDD       X6, X5, X5
	VMOVDQU      X5, (DI)
	ADDQ         $128, SI
	ADDQ         $16, DI
	SUBQ         $32, CX
	JNE          loop
	VZEROUPPER
	RET
