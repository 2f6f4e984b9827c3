package p4rt

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// entryFields has an entry's match fields and action parameters by id.
type entryFields struct {
	match  [8]*p4v1.FieldMatch
	params [8][]byte
}

func readFields(e *p4v1.TableEntry) entryFields {
	var f entryFields
	for _, m := range e.GetMatch() {
		if m.GetFieldId() < 8 {
			f.match[m.GetFieldId()] = m
		}
	}
	for _, p := range e.GetAction().GetAction().GetParams() {
		if p.GetParamId() < 8 {
			f.params[p.GetParamId()] = p.GetValue()
		}
	}
	return f
}

func (f *entryFields) exact(id int) uint64 { return pipeline.ToUint(f.match[id].GetExact().GetValue()) }
func (f *entryFields) param(id int) uint64 { return pipeline.ToUint(f.params[id]) }

func copyMAC(to *[6]byte, b []byte) {
	if len(b) <= 6 {
		copy(to[6-len(b):], b)
	}
}

func itoa(v uint16) string { return strconv.Itoa(int(v)) }

// prefixLen is the length of the prefix that a mask of a width in bits stands for.
func prefixLen(mask []byte, width int) int {
	if len(mask)*8 < width { // its first bits are zero
		return 0
	}
	ones := 0
	for _, b := range mask {
		n := bits.LeadingZeros8(^b)
		ones += n
		if n < 8 {
			break
		}
	}
	return ones
}

func sortFields(m []*p4v1.FieldMatch) {
	slices.SortFunc(m, func(a, b *p4v1.FieldMatch) int { return cmp.Compare(a.GetFieldId(), b.GetFieldId()) })
}

func sortParams(p []*p4v1.Action_Param) {
	slices.SortFunc(p, func(a, b *p4v1.Action_Param) int { return cmp.Compare(a.GetParamId(), b.GetParamId()) })
}
