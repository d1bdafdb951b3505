package dropin

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

// maxWord bounds a word of a rule, in bytes. The original writes beyond its buffer from there on.
const maxWord = 4096

// Rules reads what -R reads: one command line a line, its words separated by blanks. The word "ipvsadm" is
// left out, wherever it is. There are no comments and no quotes: a word # is an argument like any other.
type Rules struct {
	r *bufio.Reader
}

// NewRules reads rules from r.
func NewRules(r io.Reader) *Rules { return &Rules{r: bufio.NewReaderSize(r, 64<<10)} }

// Next returns the words of the next line, none for an empty one. At the end the error is io.EOF; it is an
// [*Error] for a word that is too long.
//
// As in the original, a line that ends the input without a newline but with two blanks or more is lost,
// and a word ends at a zero byte.
func (r *Rules) Next() ([]string, error) {
	line, err := r.line()
	if err != nil && (err != io.EOF || len(line) == 0) {
		return nil, err
	}
	if err == io.EOF {
		kept := bytes.TrimRight(line, blanks)
		if len(line)-len(kept) > 1 || len(kept) == 0 {
			return nil, io.EOF
		}
	}
	var words []string
	for word := range bytes.FieldsFuncSeq(line, func(c rune) bool { return strings.ContainsRune(blanks, c) }) {
		if len(word) > maxWord {
			return nil, &Error{Text: "a word of more than 4096 bytes", Status: statusUsage, Ends: true}
		}
		word, _, _ = bytes.Cut(word, []byte{0})
		if string(word) != "ipvsadm" {
			words = append(words, string(word))
		}
	}
	return words, nil
}

const blanks = " \t\r\n"

// line reads a line of any length.
func (r *Rules) line() ([]byte, error) {
	line, err := r.r.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, err
	}
	long := bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		line, err = r.r.ReadSlice('\n')
		long = append(long, line...)
	}
	return long, err
}

// ready says whether Next has a line without waiting for input.
func (r *Rules) ready() bool {
	buffered, _ := r.r.Peek(r.r.Buffered())
	return bytes.IndexByte(buffered, '\n') >= 0
}
