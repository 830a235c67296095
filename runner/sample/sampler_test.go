package sample

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tokens and probabilities that transformers leaves: scripts/reference/sampling.py.
func TestTransformers(t *testing.T) {
	var rows []struct {
		Logits []float32
		Text   []int32
		Prompt int
		Cases  []struct {
			Temperature       float64
			TopK              int               `json:"top_k"`
			TopP              float64           `json:"top_p"`
			MinP              float64           `json:"min_p"`
			TypicalP          float64           `json:"typical_p"`
			RepetitionPenalty float64           `json:"repetition_penalty"`
			FrequencyPenalty  float64           `json:"frequency_penalty"`
			PresencePenalty   float64           `json:"presence_penalty"`
			NoRepeatNgram     int               `json:"no_repeat_ngram"`
			LogitBias         map[int32]float64 `json:"logit_bias"`
			Greedy            int32
			Kept              []int32
			Probabilities     []float64
		}
	}
	data, err := os.ReadFile("testdata/vectors.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &rows))
	require.NotEmpty(t, rows)
	for _, row := range rows {
		for _, c := range row.Cases {
			params := Params{
				Temperature: c.Temperature, TopK: c.TopK, TopP: c.TopP, MinP: c.MinP, TypicalP: c.TypicalP,
				RepetitionPenalty: c.RepetitionPenalty, FrequencyPenalty: c.FrequencyPenalty, PresencePenalty: c.PresencePenalty,
				NoRepeatNgram: c.NoRepeatNgram, LogitBias: c.LogitBias,
			}
			ids, probabilities := distribution(t, params, row.Logits, row.Text, row.Prompt)
			require.Equal(t, c.Kept, ids, "%+v", params)
			require.InDeltaSlice(t, c.Probabilities, probabilities, 2e-6, "%+v", params)

			params.Temperature = 0
			s, err := New(params, len(row.Logits))
			require.NoError(t, err)
			id, err := s.Next(row.Logits, row.Text, row.Prompt)
			require.NoError(t, err)
			require.Equal(t, c.Greedy, id)
		}
	}
}

// distribution returns the candidates, by id, and their probabilities.
func distribution(t testing.TB, params Params, logits []float32, text []int32, prompt int) ([]int32, []float64) {
	t.Helper()
	s, err := New(params, len(logits))
	require.NoError(t, err)
	scores, err := s.Alter(logits, text, prompt)
	require.NoError(t, err)
	s.measure(scores[Argmax(scores)])
	c, k := s.shortlist(scores)
	var ids []int32
	var probabilities []float64
	total, spans := 0.0, make([]float64, len(c.spans))
	for i := range c.scores {
		if w := c.weights[i]; w > 0 && s.kept(&c, k, i) {
			ids, probabilities = append(ids, c.id(i)), append(probabilities, w)
			total += w
			spans[i/span] += w
		}
	}
	require.InDeltaSlice(t, spans, c.spans, 1e-9*total, "what is drawn from")
	for i := range probabilities {
		probabilities[i] /= total
	}
	return ids, probabilities
}

// reference is the plain form of the definitions: sort everything.
func reference(params Params, logits []float32) []int32 {
	var all []candidate
	for i, l := range logits {
		if l == l && !math.IsInf(float64(l), -1) {
			all = append(all, candidate{id: int32(i), logit: l})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		if a.logit > b.logit {
			return -1
		}
		if a.logit < b.logit {
			return 1
		}
		return 0
	})
	if k := params.TopK; k > 0 && k < len(all) {
		for k < len(all) && all[k].logit == all[k-1].logit {
			k++
		}
		all = all[:k]
	}
	total := 0.0
	for i, c := range all {
		all[i].weight = math.Exp((float64(c.logit) - float64(all[0].logit)) / params.Temperature)
		total += all[i].weight
	}
	if params.nucleus() {
		n, mass := 0, 0.0
		for n < len(all) && mass < params.TopP*total {
			mass += all[n].weight
			n++
		}
		all = all[:n]
	}
	all = slices.DeleteFunc(all, func(c candidate) bool { return c.weight < params.MinP*all[0].weight || c.weight == 0 })
	if params.typical() {
		all = typicalReference(all, params.TypicalP)
	}
	var ids []int32
	for _, c := range all {
		ids = append(ids, c.id)
	}
	slices.Sort(ids)
	return ids
}

type candidate struct {
	id     int32
	logit  float32
	weight float64
}

func typicalReference(all []candidate, p float64) []candidate {
	total, entropy := 0.0, 0.0
	for _, c := range all {
		total += c.weight
	}
	for _, c := range all {
		entropy -= c.weight / total * math.Log(c.weight/total)
	}
	distance := func(c candidate) float64 { return math.Abs(-math.Log(c.weight/total) - entropy) }
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(distance(a), distance(b)) })
	n, mass := 0, 0.0
	for n < len(all) && mass < p*total {
		mass += all[n].weight
		n++
	}
	for n < len(all) && all[n].logit == all[n-1].logit { // all that are equally near
		n++
	}
	return all[:n]
}

func TestAgainstReference(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for round := range 400 {
		logits := make([]float32, 1+random.IntN(2000))
		spread := math.Exp(random.Float64()*4 - 2)
		if round%7 == 0 {
			spread = 0 // all equal
		}
		for i := range logits {
			logits[i] = float32(random.NormFloat64() * spread)
			if round%3 == 0 {
				logits[i] = float32(math.Round(float64(logits[i]))) // many ties
			}
			if round%5 == 0 && random.IntN(4) == 0 {
				logits[i] = []float32{float32(math.NaN()), float32(math.Inf(-1)), -1e30}[random.IntN(3)]
			}
		}
		logits[random.IntN(len(logits))] = float32(spread) // not all NaN
		if round%11 == 0 {
			logits[random.IntN(len(logits))] += 30 // one above all
		}
		params := Params{Temperature: 0.2 + 2*random.Float64()}
		if round%4 == 0 {
			params.Temperature = math.Exp(math.Log(100) * random.Float64()) // flat
		}
		if random.IntN(2) == 0 {
			params.TopK = 1 + random.IntN(len(logits)+5)
		}
		if random.IntN(2) == 0 {
			params.TopP = 0.01 + 0.98*random.Float64()
		}
		if random.IntN(2) == 0 {
			params.MinP = random.Float64() * random.Float64()
		}
		if random.IntN(3) == 0 {
			params.TypicalP = 0.01 + 0.98*random.Float64()
		}
		ids, _ := distribution(t, params, logits, nil, 0)
		want := reference(params, logits)
		if params.TopP == 0 && params.MinP == 0 && params.TypicalP == 0 {
			// Weights below e^-50 are left out; the reference goes to e^-745.
			missing := slices.ContainsFunc(ids, func(id int32) bool {
				_, found := slices.BinarySearch(want, id)
				return !found
			})
			require.False(t, missing, "%+v", params)
			continue
		}
		require.Equal(t, want, ids, "%+v", params)
	}
}

func TestNext(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	rows := []struct {
		why    string
		params Params
		logits []float32
		past   []int32
		want   int32
	}{
		{"the largest", Params{}, []float32{1, 3, 2}, nil, 1},
		{"of ties the lowest id", Params{}, []float32{1, 3, 3, 3, 3, 3, 3, 3, 3}, nil, 1},
		{"ties across a block of four", Params{}, []float32{0, 0, 0, 0, 0, 7, 0, 7, 7}, nil, 5},
		{"all equal", Params{}, make([]float32, 11), nil, 0},
		{"zeros of both signs are equal", Params{}, []float32{-1, float32(math.Copysign(0, -1)), 0}, nil, 1},
		{"NaN is passed over", Params{}, []float32{nan, -5, nan, -6}, nil, 1},
		{"minus infinity is passed over", Params{}, []float32{-inf, -inf, -3e38}, nil, 2},
		{"the last of an odd number", Params{}, []float32{0, 0, 0, 0, 0, 0, 1}, nil, 6},
		{"one token", Params{}, []float32{-7}, nil, 0},
		{"a penalty lowers a positive logit", Params{RepetitionPenalty: 2}, []float32{4, 3}, []int32{0, 0, 0}, 1},
		{"a penalty lowers a negative logit", Params{RepetitionPenalty: 2}, []float32{-2, -3}, []int32{0}, 1},
		{"a penalty acts once for a token", Params{RepetitionPenalty: 2}, []float32{9, 4}, []int32{0, 0, 0}, 0},
		{"top-k 1 is greedy", Params{Temperature: 1, TopK: 1}, []float32{1, 3, 2}, nil, 1},
		{"a tiny top-p is greedy", Params{Temperature: 1, TopP: 1e-9}, []float32{1, 3, 2}, nil, 1},
		{"min-p 1 is greedy", Params{Temperature: 1, MinP: 1}, []float32{1, 3, 2}, nil, 1},
		{"most typical of three is not the likeliest", Params{Temperature: 1, TypicalP: 0.01}, []float32{0, 1, 0.7}, nil, 2},
		{"equally typical are all", Params{Temperature: 1, TypicalP: 0.01, TopK: 1}, []float32{0, 1, 0}, nil, 1},
		{"a bias", Params{LogitBias: map[int32]float64{2: 1.5}}, []float32{1, 3, 2}, nil, 2},
		{"a bias is penalised too", Params{LogitBias: map[int32]float64{2: 1.5}, RepetitionPenalty: 2}, []float32{1, 3, 2}, []int32{2}, 1},
		{"a bias cannot bring back what is forbidden", Params{LogitBias: map[int32]float64{0: 100}}, []float32{-inf, 3, 2}, nil, 1},
		{"frequency counts", Params{FrequencyPenalty: 0.6}, []float32{3, 2, 1}, []int32{0, 0}, 1},
		{"presence does not", Params{PresencePenalty: 0.6}, []float32{3, 2, 1}, []int32{0, 0}, 0},
		{"a token that has been", Params{NoRepeatNgram: 1}, []float32{3, 2, 1}, []int32{0}, 1},
		{"what would be a pair again", Params{NoRepeatNgram: 2}, []float32{3, 2, 1}, []int32{1, 0, 1}, 1},
		{"a pair that overlaps itself", Params{NoRepeatNgram: 2}, []float32{3, 2, 1}, []int32{0, 0}, 1},
		{"no pair yet", Params{NoRepeatNgram: 2}, []float32{3, 2, 1}, []int32{0}, 0},
		{"a tiny temperature is greedy", Params{Temperature: 5e-324}, []float32{1, 3, 2}, nil, 1},
		{"only one is left", Params{Temperature: 1, TopK: 2, TopP: 0.9}, []float32{nan, -inf, 2, nan}, nil, 2},
		{"a sure thing", Params{Temperature: 1}, []float32{0, 1000, -1e38, 3e38}, nil, 3},
	}
	for _, row := range rows {
		t.Run(row.why, func(t *testing.T) {
			s, err := New(row.params, len(row.logits))
			require.NoError(t, err)
			before := slices.Clone(row.logits)
			for range 3 {
				id, err := s.Next(row.logits, row.past, 0)
				require.NoError(t, err)
				require.Equal(t, row.want, id)
			}
			for i := range before {
				require.Equal(t, math.Float32bits(before[i]), math.Float32bits(row.logits[i]), "logits must stay")
			}
		})
	}
}

func TestNextErrors(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, params := range []Params{{}, {Temperature: 1, TopK: 2, TopP: 0.5}} {
		s, err := New(params, 3)
		require.NoError(t, err)
		for _, row := range []struct {
			why, want string
			logits    []float32
		}{
			{"too few", "2 for a vocabulary of 3", []float32{1, 2}},
			{"too many", "4 for a vocabulary of 3", []float32{1, 2, 3, 4}},
			{"none at all", "0 for a vocabulary of 3", nil},
			{"only NaN", "every one is NaN", []float32{nan, nan, nan}},
			{"only minus infinity", "minus infinity", []float32{-inf, nan, -inf}},
			{"plus infinity", "token 1 has plus infinity", []float32{1, inf, inf}},
		} {
			_, err := s.Next(row.logits, nil, 0)
			require.ErrorIs(t, err, ErrLogits, row.why)
			require.ErrorContains(t, err, row.want, row.why)
		}
	}
	s, err := New(Params{RepetitionPenalty: 1.1}, 3)
	require.NoError(t, err)
	for _, id := range []int32{-1, 3} {
		_, err = s.Next([]float32{1, 2, 3}, []int32{0, id}, 0)
		require.ErrorContains(t, err, "at 1, outside")
	}
}

func TestParams(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	rows := []struct {
		why    string
		params Params
		want   []string // faults; none is good
	}{
		{"the zero value", Params{}, nil},
		{"the limits", Params{Temperature: 100, TopK: math.MaxInt, TopP: 1, MinP: 1, RepetitionPenalty: 100, Seed: math.MaxUint64}, nil},
		{"all faults at once", Params{Temperature: -1, TopK: -1, TopP: 1.5, MinP: -0.1, RepetitionPenalty: -2},
			[]string{"temperature is -1", "top-k is -1", "top-p is 1.5", "min-p is -0.1", "repetition penalty is -2"}},
		{"all faults of what else there is", Params{TypicalP: 2, FrequencyPenalty: -3, PresencePenalty: 2.1, NoRepeatNgram: -1, LogitBias: map[int32]float64{3: 101}},
			[]string{"typical-p is 2", "frequency penalty is -3", "presence penalty is 2.1", "n-gram size is -1", "bias for the token 3 is 101"}},
		{"an n-gram without end", Params{NoRepeatNgram: 1 << 40}, []string{"n-gram size is 1099511627776, not from 0 to 100"}},
		{"biases for tokens that there are not", Params{LogitBias: map[int32]float64{10: 1, -1: 1, math.MaxInt32: 1}}, []string{"the token -1,", "the token 10, which is not one of 0 to 9", "2147483647"}},
		{"biases that are no numbers", Params{LogitBias: map[int32]float64{1: nan, 2: inf}}, []string{"token 1 is NaN", "token 2 is +Inf"}},
		{"many bad biases", Params{LogitBias: biases(20)}, []string{"token 10,", "11", "12", "7 more"}},
		{"too many biases", Params{LogitBias: biases(1025)}, []string{"logit bias for 1025 tokens, more than 1024"}},
		{"NaN", Params{Temperature: nan, TopP: nan, MinP: nan, RepetitionPenalty: nan},
			[]string{"temperature is NaN", "top-p is NaN", "min-p is NaN", "repetition penalty is NaN"}},
		{"infinity", Params{Temperature: inf, TopP: inf, MinP: inf, RepetitionPenalty: inf},
			[]string{"temperature is +Inf", "top-p is +Inf", "min-p is +Inf", "repetition penalty is +Inf"}},
		{"a temperature in per cent", Params{Temperature: 700}, []string{"temperature is 700, not from 0 to 100"}},
	}
	for _, row := range rows {
		_, err := New(row.params, 10)
		if row.want == nil {
			require.NoError(t, err, row.why)
			continue
		}
		require.ErrorIs(t, err, ErrParams, row.why)
		require.Equal(t, len(row.want)-1, strings.Count(err.Error(), ";"), row.why)
		for _, fault := range row.want {
			require.ErrorContains(t, err, fault, row.why)
		}
	}
	for _, vocab := range []int{0, -1, math.MaxInt} {
		_, err := New(Params{}, vocab)
		require.Error(t, err)
	}
}

func biases(n int32) map[int32]float64 {
	m := map[int32]float64{}
	for i := range n {
		m[i] = 1
	}
	return m
}

// The sequence is part of what a seed promises: these are its values, on any machine.
func TestSeed(t *testing.T) {
	logits := make([]float32, 1000)
	for i := range logits {
		logits[i] = float32(i%37) / 8
	}
	draw := func(params Params) []int32 {
		s, err := New(params, len(logits))
		require.NoError(t, err)
		ids := make([]int32, 6)
		for i := range ids {
			ids[i], err = s.Next(logits, nil, 0)
			require.NoError(t, err)
		}
		require.NoError(t, s.Reset(params))
		again, err := s.Next(logits, nil, 0)
		require.NoError(t, err)
		require.Equal(t, ids[0], again, "Reset starts the sequence again")
		return ids
	}
	params := Params{Temperature: 0.6, TopK: 200, TopP: 0.95, Seed: 1}
	require.Equal(t, []int32{956, 738, 921, 887, 702, 367}, draw(params))
	params.Seed = 2
	require.Equal(t, []int32{887, 31, 550, 368, 586, 442}, draw(params))
	require.Equal(t, []int32{475, 733, 996, 552, 663, 318}, draw(Params{Temperature: 1}))
}

// Tokens come as often as their probabilities say: chi-squared over 40,000 draws from
// a fixed seed, against its 99.9th percentile for 9 degrees of freedom.
func TestDrawFrequencies(t *testing.T) {
	logits := []float32{0, 1, 2, 0.5, -1, 1.5, -0.5, 2.5, 0.25, 1.25}
	params := Params{Temperature: 1.2, Seed: 9}
	_, probabilities := distribution(t, params, logits, nil, 0)
	s, err := New(params, len(logits))
	require.NoError(t, err)
	const draws = 40000
	counts := make([]float64, len(logits))
	for range draws {
		id, err := s.Next(logits, nil, 0)
		require.NoError(t, err)
		counts[id]++
	}
	chi := 0.0
	for i, p := range probabilities {
		chi += (counts[i] - draws*p) * (counts[i] - draws*p) / (draws * p)
	}
	require.Less(t, chi, 27.88)
}

// The comparison as integers has corners: zeros of both signs, NaN of both signs, bounds
// below zero, and lengths that are no whole number of blocks.
func TestNextAbove(t *testing.T) {
	nan := float32(math.NaN())
	odd := []float32{
		0, float32(math.Copysign(0, -1)), 1, -1, nan, math.Float32frombits(math.Float32bits(nan) | 1<<31),
		float32(math.Inf(1)), float32(math.Inf(-1)), math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, math.MaxFloat32,
	}
	random := rand.New(rand.NewPCG(7, 8))
	for range 3000 {
		v := make([]float32, random.IntN(40))
		for i := range v {
			v[i] = odd[random.IntN(len(odd))]
			if random.IntN(2) == 0 {
				v[i] = nan // long stretches without a value
			}
		}
		bound := odd[random.IntN(len(odd))]
		start := random.IntN(len(v) + 1)
		want := -1
		for i := len(v) - 1; i >= start; i-- {
			if v[i] > bound {
				want = i
			}
		}
		require.Equal(t, want, nextAbove(v, start, bound), "%v from %d above %v", v, start, bound)
	}
}

// Large k are found by digits, small ones in a heap.
func TestKthLargest(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	odd := []float32{0, float32(math.Copysign(0, -1)), nan, -inf, -nan, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32, -1, 1}
	for range 300 {
		v := make([]float32, 1+random.IntN(1000))
		var sorted []float32
		for i := range v {
			v[i] = float32(random.NormFloat64())
			if random.IntN(3) == 0 {
				v[i] = odd[random.IntN(len(odd))]
			}
			if v[i] == v[i] {
				sorted = append(sorted, v[i])
			}
		}
		slices.Sort(sorted)
		for _, k := range []int{1, 1 + random.IntN(len(v)), 1 + random.IntN(len(v)), len(v)} {
			want := -inf
			if k <= len(sorted) {
				want = sorted[len(sorted)-k]
			}
			require.Equal(t, want+0, kthLargest(v, make([]float32, largestRoom(len(v), k)), k)+0, "%v, the largest but %d", v, k-1)
			require.Equal(t, want+0, kthByDigits(v, make([]float32, len(v)), k)+0, "%v, the largest but %d", v, k-1)
		}
	}
}

func TestWeight(t *testing.T) {
	w, slot := weight(0)
	require.Equal(t, 1.0, w)
	require.Zero(t, slot)
	previous := 0.0
	for i := 1 << 20; i >= 0; i-- {
		depth := maxDepth * float64(i) / (1 << 20)
		w, slot := weight(depth)
		if want := math.Exp(-depth / stepsPerUnit); math.Abs(w-want) > 2e-8*want {
			t.Fatalf("%v at a depth of %v: want %v", w, depth, want)
		}
		if math.Abs(float64(slot)-depth) > 0.5 {
			t.Fatalf("a depth of %v in slot %d", depth, slot)
		}
		if w < previous {
			t.Fatalf("weights fall at a depth of %v", depth)
		}
		previous = w
	}
}

func TestNextDoesNotAllocate(t *testing.T) {
	logits := normal(5000, 3)
	history := []int32{1, 2, 3}
	for _, params := range benchmarks {
		s, err := New(params, len(logits))
		require.NoError(t, err)
		require.Zero(t, testing.AllocsPerRun(20, func() {
			if _, err := s.Next(logits, history, 0); err != nil {
				t.Fatal(err)
			}
		}), "%+v", params)
	}
}

func normal(n int, spread float64) []float32 {
	random := rand.New(rand.NewPCG(1, 1))
	logits := make([]float32, n)
	for i := range logits {
		logits[i] = float32(random.NormFloat64() * spread)
	}
	return logits
}

var benchmarks = map[string]Params{
	"greedy":         {},
	"greedy/penalty": {RepetitionPenalty: 1.1},
	"top-k+top-p":    {Temperature: 0.6, TopK: 20, TopP: 0.95},
	"top-k 1000":     {Temperature: 0.6, TopK: 1000},
	"top-k 50000":    {Temperature: 0.6, TopK: 50_000},
	"min-p flat":     {Temperature: 5, MinP: 0.02},
	"top-p":          {Temperature: 0.7, TopP: 0.8},
	"top-p flat":     {Temperature: 5, TopP: 0.95},
	"min-p":          {Temperature: 1, MinP: 0.05},
	"temperature":    {Temperature: 1},
	"typical":        {Temperature: 1, TypicalP: 0.95},
	"typical flat":   {Temperature: 5, TypicalP: 0.95},
	"penalties":      {RepetitionPenalty: 1.1, FrequencyPenalty: 0.5, PresencePenalty: 0.5, NoRepeatNgram: 4, LogitBias: map[int32]float64{7: 1}},
	"everything": {Temperature: 0.7, TopK: 50, TopP: 0.9, MinP: 0.02, TypicalP: 0.95, RepetitionPenalty: 1.1,
		FrequencyPenalty: 0.5, PresencePenalty: 0.5, NoRepeatNgram: 4, LogitBias: map[int32]float64{7: 1}},
}

func BenchmarkNext(b *testing.B) {
	logits := normal(151936, 3)
	text := make([]int32, 4096) // a long text: penalties look at all of it
	random := rand.New(rand.NewPCG(2, 2))
	for i := range text {
		text[i] = random.Int32N(int32(len(logits)))
	}
	for name, params := range benchmarks {
		b.Run(name, func(b *testing.B) {
			s, err := New(params, len(logits))
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Next(logits, text, 2048); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzNext(f *testing.F) {
	f.Add([]byte("\x00\x00\x80\x3f\x00\x00\x00\x40"), 0.6, 20, 0.95, 0.0, 0.0, 1.1, 0.5, 0.5, 2, int32(1), 1.5, uint64(1))
	f.Add([]byte("\x00\x00\xc0\x7f\x00\x00\x80\xff"), 1.0, 0, 0.5, 0.1, 0.5, 0.0, 0.0, -2.0, 0, int32(0), 0.0, uint64(2))
	f.Add([]byte("\xff\xff\x7f\x7f\xff\xff\x7f\xff\xff\xff\x7f\xff"), 1e-300, 0, 0.0, 0.0, 0.1, 100.0, 2.0, 2.0, 1, int32(2), 100.0, uint64(3))
	f.Fuzz(func(t *testing.T, data []byte, temperature float64, topK int, topP, minP, typical, repetition, frequency, presence float64,
		ngram int, token int32, bias float64, seed uint64) {
		logits := make([]float32, len(data)/4)
		for i := range logits {
			logits[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
		params := Params{Temperature: temperature, TopK: topK, TopP: topP, MinP: minP, TypicalP: typical, RepetitionPenalty: repetition,
			FrequencyPenalty: frequency, PresencePenalty: presence, NoRepeatNgram: ngram, LogitBias: map[int32]float64{token: bias}, Seed: seed}
		s, err := New(params, len(logits))
		if err != nil {
			return
		}
		text := make([]int32, 0, len(data))
		for _, b := range data {
			if int(b) < len(logits) {
				text = append(text, int32(b))
			}
		}
		id, err := s.Next(logits, text, len(text)/2)
		if err != nil {
			require.ErrorIs(t, err, ErrLogits)
			return
		}
		require.Less(t, int(id), len(logits))
		require.False(t, math.IsNaN(float64(logits[id])) || math.IsInf(float64(logits[id]), -1))
	})
}
