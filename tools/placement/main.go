// Command placement prints which stages of a Tofino 1 a program uses, and how many
// blocks of SRAM and TCAM in each, from the context.json of its assembler.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

// The blocks of one stage.
const (
	stages = 12
	srams  = 80
	tcams  = 24
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: placement context.json")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// usage is the blocks in use, by stage and by kind of memory.
type usage map[int]map[string]map[int]bool

func run(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var context any
	if err := json.Unmarshal(b, &context); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	u := usage{}
	u.walk(context, -1)
	last, sram, tcam := -1, 0, 0
	for stage := range stages {
		s, t := len(u[stage]["sram"]), len(u[stage]["tcam"])
		if s+t > 0 {
			last = stage
		}
		sram, tcam = sram+s, tcam+t
		fmt.Printf("stage %2d: SRAM %2d of %d, TCAM %2d of %d\n", stage, s, srams, t, tcams)
	}
	fmt.Printf("%d of %d stages, SRAM %d of %d, TCAM %d of %d\n", last+1, stages, sram, stages*srams, tcam, stages*tcams)
	return nil
}

// walk collects the blocks within a value. Their stage is that of the nearest enclosing
// value that has one.
func (u usage) walk(v any, stage int) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			u.walk(e, stage)
		}
	case map[string]any:
		if n, ok := v["stage_number"].(float64); ok {
			stage = int(n)
		}
		if m, ok := v["memory_resource_allocation"].(map[string]any); ok {
			kind, _ := m["memory_type"].(string)
			u.blocks(m, stage, kind)
		}
		for _, e := range v {
			u.walk(e, stage)
		}
	}
}

// blocks collects the blocks of one table in one stage.
func (u usage) blocks(v any, stage int, kind string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			u.blocks(e, stage, kind)
		}
	case map[string]any:
		for key, e := range v {
			if key == "memory_units" || key == "spare_bank_memory_unit" {
				u.note(e, stage, kind)
			} else {
				u.blocks(e, stage, kind)
			}
		}
	}
}

func (u usage) note(v any, stage int, kind string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			u.note(e, stage, kind)
		}
	case float64:
		if u[stage] == nil {
			u[stage] = map[string]map[int]bool{}
		}
		if u[stage][kind] == nil {
			u[stage][kind] = map[int]bool{}
		}
		u[stage][kind][int(v)] = true
	}
}
