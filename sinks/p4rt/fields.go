package p4rt

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// fieldsOf is an entry's match fields and parameters by id.
type fieldsOf struct {
	match  [8]*p4v1.FieldMatch
	params [8][]byte
}

func readFields(e *p4v1.TableEntry) fieldsOf {
	var f fieldsOf
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

func (f *fieldsOf) exact(id int) uint64 { return pipeline.ToUint(f.match[id].GetExact().GetValue()) }
func (f *fieldsOf) param(id int) uint64 { return pipeline.ToUint(f.params[id]) }

func copyMAC(to *[6]byte, b []byte) {
	if len(b) <= 6 {
		copy(to[6-len(b):], b)
	}
}

func itoa(v uint16) string { return strconv.Itoa(int(v)) }

// onesOf is the length of the prefix that a mask is, of a width in bits.
func onesOf(mask []byte, width int) int {
	if len(mask)*8 < width { // its first bits are zero: no prefix mask but the empty one
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
