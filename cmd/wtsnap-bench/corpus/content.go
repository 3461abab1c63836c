package corpus

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
)

// kind is what a generated file holds. It also decides what an edit of the file inserts.
type kind int

const (
	text kind = iota
	code
	table
	floats
	noise
	notebook
)

// kindOf tells the kind of a file that may have been copied from the machine.
func kindOf(name string) kind {
	switch strings.ToLower(path.Ext(name)) {
	case ".csv":
		return table
	case ".npy", ".h5":
		return floats
	case ".jpg", ".gz", ".png", ".zip", ".xz":
		return noise
	case ".go", ".py", ".c", ".h", ".s":
		return code
	case ".ipynb":
		return notebook
	}
	return text
}

func (k kind) extension() string {
	return [...]string{".txt", ".py", ".csv", ".npy", ".jpg", ".ipynb"}[k]
}

// writer makes contents. It is not for concurrent use.
type writer struct {
	rng   *rand.Rand
	words []string
}

// vocabulary is the same for all users: people write about the same things.
func vocabulary(seed uint64) []string {
	rng := stream(seed, "vocabulary")
	syllables := strings.Fields("ab an ar be ca co da de di do el en er es fi ga ge ha he in is ka la le li ma me mi no on or " +
		"pa pe po ra re ri ro sa se si so st ta te ti to tra un ur va ve vi wa ze")
	words := make([]string, 4096)
	for i := range words {
		for range 1 + rng.IntN(4) {
			words[i] += syllables[rng.IntN(len(syllables))]
		}
	}
	return words
}

// make returns n bytes of a kind; a notebook is a little longer or shorter.
func (w *writer) make(k kind, n int) []byte {
	switch k {
	case code:
		return w.code(n)
	case table:
		return w.table(n)
	case floats:
		return w.floats(n)
	case noise:
		return w.noise(n)
	case notebook:
		return w.notebook(n)
	}
	return w.text(n)
}

// piece returns n bytes to be put into a file of a kind that exists already.
func (w *writer) piece(k kind, n int) []byte {
	if k == notebook {
		return []byte(base64.StdEncoding.EncodeToString(w.noise(n * 3 / 4)))
	}
	return w.make(k, n)
}

// word is skewed as words in texts are: few of them make up most of it.
func (w *writer) word() string {
	u := w.rng.Float64()
	return w.words[int(u*u*u*float64(len(w.words)))]
}

func (w *writer) text(n int) []byte {
	b := make([]byte, 0, n+32)
	for column := 0; len(b) < n; {
		word := w.word()
		b = append(b, word...)
		if column += len(word) + 1; column > 76 {
			b, column = append(b, '\n'), 0
		} else {
			b = append(b, ' ')
		}
	}
	return b[:n]
}

func (w *writer) code(n int) []byte {
	b := make([]byte, 0, n+128)
	for len(b) < n {
		b = fmt.Appendf(b, "def %s_%s(%s, %s):\n", w.word(), w.word(), w.word(), w.word())
		for range 1 + w.rng.IntN(8) {
			b = fmt.Appendf(b, "    %s = self.%s(%s, %d)\n", w.word(), w.word(), w.word(), w.rng.IntN(100))
		}
		b = fmt.Appendf(b, "    return %s  # %s %s %s\n\n", w.word(), w.word(), w.word(), w.word())
	}
	return b[:n]
}

func (w *writer) table(n int) []byte {
	b := make([]byte, 0, n+128)
	day, level := w.rng.IntN(5000), w.rng.Float64()*100
	for len(b) < n {
		day += w.rng.IntN(2)
		level += w.rng.NormFloat64()
		b = fmt.Appendf(b, "20%02d-%02d-%02d,%s,%.3f,%d,%.6f\n", day/372%25, day/31%12+1, day%31+1, w.word(), level,
			w.rng.IntN(1000), w.rng.Float64())
	}
	return b[:n]
}

// floats is a random walk of float64 values, as measurements and simulations are.
func (w *writer) floats(n int) []byte {
	b := make([]byte, 0, n+8)
	for x := w.rng.NormFloat64(); len(b) < n; {
		x += w.rng.NormFloat64() * 0.01
		b, _ = binary.Append(b, binary.LittleEndian, x)
	}
	return b[:n]
}

// noise cannot be compressed: pictures, archives.
func (w *writer) noise(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, w.rng.Uint64())
	}
	return b[:n]
}

// notebook is a Jupyter notebook whose cells have texts, tables and embedded pictures as outputs.
func (w *writer) notebook(n int) []byte {
	type object = map[string]any
	lines := func(b []byte) []string { return strings.SplitAfter(string(b), "\n") }
	var cells []object
	for size := 0; size < n; {
		var outputs []object
		source := w.code(100 + w.rng.IntN(900))
		size += len(source) + 400
		switch w.rng.IntN(3) {
		case 0:
			picture := base64.StdEncoding.EncodeToString(w.noise(min(n/3, 3000+w.rng.IntN(40000))))
			outputs = append(outputs, object{"output_type": "display_data", "metadata": object{},
				"data": object{"image/png": picture, "text/plain": []string{"<Figure size 640x480 with 1 Axes>"}}})
			size += len(picture)
		case 1:
			printed := w.table(200 + w.rng.IntN(2000))
			outputs = append(outputs, object{"output_type": "stream", "name": "stdout", "text": lines(printed)})
			size += len(printed)
		}
		cells = append(cells,
			object{"cell_type": "markdown", "metadata": object{}, "source": lines(w.text(200))},
			object{"cell_type": "code", "metadata": object{}, "execution_count": len(cells), "source": lines(source),
				"outputs": outputs})
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(object{"cells": cells, "metadata": object{}, "nbformat": 4, "nbformat_minor": 5}); err != nil {
		panic(err) // maps of strings always encode
	}
	return b.Bytes()
}
