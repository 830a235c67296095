package calib

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseDocuments(t *testing.T) {
	for _, c := range []struct {
		why, file string
		want      []string // texts; "m2" for two messages
		err       string
	}{
		{"plain text", "In the beginning\nGod created", []string{"In the beginning\nGod created"}, ""},
		{"plain text that begins with a brace", "{ this is C }\nint x;", []string{"{ this is C }\nint x;"}, ""},
		{"a mark of byte order", "\ufeffabc", []string{"abc"}, ""},
		{"texts", "{\"text\": \"a\"}\n\n{\"text\": \"b\\nc\"}\n", []string{"a", "b\nc"}, ""},
		{"conversations among texts", "{\"text\":\"a\"}\n{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"}]}", []string{"a", "m2"}, ""},
		{"other fields do no harm", `{"id": 7, "text": "a"}`, []string{"a"}, ""},
		{"nothing", "", nil, "too little calibration text: the file is empty"},
		{"blank", " \n \n", nil, "the file is empty"},
		{"JSON of another kind", `{"content": "a"}`, nil, "line 1: it has neither text nor messages"},
		{"the line is named", "{\"text\":\"a\"}\n{\"text\":", nil, "line 2: not a JSON object"},
		{"both", `{"text":"a","messages":[{}]}`, nil, "line 1: it has both"},
		{"not text", "\xff\xfe\x00", nil, "neither text in UTF-8 nor lines of JSON"},
		{"a list", "[1, 2]", nil, "line 1: not a JSON object"},
	} {
		docs, err := parseDocuments([]byte(c.file))
		if c.err != "" {
			require.ErrorContains(t, err, c.err, c.why)
			continue
		}
		require.NoError(t, err, c.why)
		var got []string
		for _, d := range docs {
			if d.Messages != nil {
				d.Text = "m" + string(rune('0'+len(d.Messages)))
			}
			got = append(got, d.Text)
		}
		require.Equal(t, c.want, got, c.why)
	}
	_, err := ReadDocuments(t.TempDir() + "/none")
	require.ErrorContains(t, err, "none")
}

func TestBuiltIn(t *testing.T) {
	docs := BuiltIn()
	require.Len(t, docs, 1)
	require.Greater(t, len(docs[0].Text), 150_000)
}

func TestTake(t *testing.T) {
	text := make([]int32, 10_000)
	for i := range text {
		text[i] = int32(i)
	}
	samples, err := Sampling{}.Take(text)
	require.NoError(t, err)
	require.Len(t, samples, DefaultSamples)
	begins := make([]int64, len(samples))
	for i, s := range samples {
		require.Len(t, s, DefaultLength)
		require.Equal(t, s[0]+DefaultLength-1, s[DefaultLength-1], "a sample is a piece of the text")
		begins[i] = s[0]
	}
	require.True(t, slices.IsSorted(begins))
	require.Less(t, begins[0], int64(100))
	require.Greater(t, begins[127], int64(9300), "they reach to the end")

	again, err := Sampling{}.Take(text)
	require.NoError(t, err)
	require.Equal(t, samples, again, "the same each time")
	other, err := Sampling{Seed: 1}.Take(text)
	require.NoError(t, err)
	require.NotEqual(t, samples, other)

	samples, err = Sampling{Length: 100}.Take(text[:102])
	require.NoError(t, err)
	require.Len(t, samples, 3, "a sample for each place, and none twice")

	_, err = Sampling{Length: 100}.Take(text[:99])
	require.ErrorIs(t, err, ErrNoData)
	require.ErrorContains(t, err, "99 tokens are less than one sample of 100")
	_, err = Sampling{Samples: -1}.Take(text)
	require.ErrorContains(t, err, "-1 samples")
}
