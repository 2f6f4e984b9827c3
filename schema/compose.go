package schema

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// composeSpec is the JSON Schema of the Compose Specification that compose-go uses.
//
//go:embed compose-spec.json
var composeSpec []byte

// notOnNodes has the fields of a compose service that are not allowed on nodes, with
// the reason and the fix.
var notOnNodes = map[string]string{
	"image":          "is the version's own field; write it beside compose",
	"build":          "a node runs images; build it elsewhere and give the version's image",
	"provider":       "a node runs images; give the version's image",
	"extends":        "there is nothing to extend in a node's file; write the fields out",
	"ports":          "has no effect on the host's network, where the service listens itself; remove it",
	"networks":       "has no effect on the host's network, which a node's services use; remove it",
	"links":          "has no effect on the host's network, which a node's services use; remove it",
	"external_links": "has no effect on the host's network, which a node's services use; remove it",
	"configs":        "a node's file declares none; mount a file by volumes",
	"secrets":        "a node's file declares none; mount a file by volumes",
	"models":         "a node's file declares none; remove it",
}

// composeFields has the schemas of the fields of a compose service, by name. Each field
// is checked on its own, as a schema of the whole service reports all fields as unknown
// once one is wrong.
var composeFields = sync.OnceValue(func() map[string]*jsonschema.Schema {
	fields, err := compileCompose()
	if err != nil {
		panic("schema: " + err.Error())
	}
	return fields
})

func compileCompose() (map[string]*jsonschema.Schema, error) {
	spec, err := jsonschema.UnmarshalJSON(bytes.NewReader(composeSpec))
	if err != nil {
		return nil, err
	}
	const file = "compose-spec.json"
	c := jsonschema.NewCompiler()
	if err := c.AddResource(file, spec); err != nil {
		return nil, err
	}
	fields := map[string]*jsonschema.Schema{}
	defs := spec.(map[string]any)["$defs"].(map[string]any)
	for _, def := range []string{"container_spec", "workload_spec", "service"} {
		for name := range defs[def].(map[string]any)["properties"].(map[string]any) {
			if fields[name], err = c.Compile(file + "#/$defs/" + def + "/properties/" + name); err != nil {
				return nil, err
			}
		}
	}
	return fields, nil
}

// compose checks the compose fields of a version.
func (v *validator) compose(ver *ServiceVersion, at string) {
	if strings.ContainsAny(ver.Image, " \t") {
		v.errorf(at+".image", "%q has a space, which no image has", ver.Image)
	}
	if len(ver.Compose) == 0 {
		return
	}
	if ver.Image == "" {
		v.errorf(at+".compose", "is about a container, and the version has no image; give it one")
	}
	at += ".compose"
	for _, name := range slices.Sorted(maps.Keys(ver.Compose)) {
		field, value := fieldName(at, name), ver.Compose[name]
		s, known := composeFields()[name]
		switch why := notOnNodes[name]; {
		case !v.finite(field, value):
		case why != "":
			v.errorf(field, "%s", why)
		case strings.HasPrefix(name, "x-"):
		case !known:
			v.errorf(field, "unknown field%v", suggestion{composeNames(), name})
		case name == "network_mode" && value != "host":
			v.errorf(field, "a node's services use the host's network; remove it")
		default:
			if err, wrong := errors.AsType[*jsonschema.ValidationError](s.Validate(value)); wrong {
				v.composeError(field, err)
			}
		}
	}
}

// finite reports numbers that JSON cannot express.
func (v *validator) finite(field string, value any) bool {
	good := true
	switch x := value.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(x)) {
			good = v.finite(fieldName(field, k), x[k]) && good
		}
	case []any:
		for i := range x {
			good = v.finite(field+"["+strconv.Itoa(i)+"]", x[i]) && good
		}
	case float64:
		if good = !math.IsNaN(x) && !math.IsInf(x, 0); !good {
			v.errorf(field, "is not a finite number; write one")
		}
	}
	return good
}

// composeNames is the compose fields that a version may have.
func composeNames() *structFields {
	var s structFields
	for _, name := range slices.Sorted(maps.Keys(composeFields())) {
		if notOnNodes[name] == "" {
			s.list = append(s.list, structField{name: name})
		}
	}
	return &s
}

// composeError reports where a value violates its schema.
func (v *validator) composeError(field string, err *jsonschema.ValidationError) {
	for _, e := range causesOf(err) {
		at := field
		for _, step := range e.InstanceLocation {
			if _, notIndex := strconv.Atoi(step); notIndex == nil {
				at += "[" + step + "]"
			} else {
				at = fieldName(at, step)
			}
		}
		if extra, ok := e.ErrorKind.(*kind.AdditionalProperties); ok {
			for _, p := range extra.Properties {
				v.errorf(fieldName(at, p), "unknown field")
			}
			continue
		}
		v.errorf(at, "%s", explain(e))
	}
}

// causesOf is the root causes of an error. Of alternatives it is those of the one that
// went deepest into the value, or the error itself if none went into it.
func causesOf(e *jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return []*jsonschema.ValidationError{e}
	}
	var all []*jsonschema.ValidationError
	choice := false
	switch e.ErrorKind.(type) {
	case *kind.OneOf, *kind.AnyOf:
		choice = true
	}
	deepest := len(e.InstanceLocation)
	for _, c := range e.Causes {
		causes := causesOf(c)
		if !choice {
			all = append(all, causes...)
			continue
		}
		if depth := depthOf(causes[0]); depth > deepest {
			deepest, all = depth, causes
		}
	}
	if len(all) == 0 {
		return []*jsonschema.ValidationError{e}
	}
	return all
}

// depthOf is how deep a schema went into a value. A wrong type does not count as going
// into it.
func depthOf(e *jsonschema.ValidationError) int {
	depth := len(e.InstanceLocation)
	if _, ok := e.ErrorKind.(*kind.Type); !ok {
		depth++
	}
	return depth
}

// explain describes an error in the words of this package.
func explain(e *jsonschema.ValidationError) string {
	switch k := e.ErrorKind.(type) {
	case *kind.Type:
		return "want " + typeNames(k.Want)
	case *kind.OneOf, *kind.AnyOf:
		var want []string
		for _, c := range e.Causes {
			for _, d := range causesOf(c) {
				if t, ok := d.ErrorKind.(*kind.Type); ok {
					want = append(want, t.Want...)
				}
			}
		}
		if len(want) > 0 {
			return "want " + typeNames(want)
		}
		return "is not what the Compose Specification allows here"
	case *kind.Required:
		return strings.Join(k.Missing, " and ") + " is missing"
	case *kind.Enum:
		var words []string
		for _, w := range k.Want {
			words = append(words, fmt.Sprint(w))
		}
		return fmt.Sprintf("%q is not known; want %s", fmt.Sprint(k.Got), orList(words))
	}
	return e.ErrorKind.LocalizedString(message.NewPrinter(language.English))
}

// typeNames describes JSON types in the words of this package.
func typeNames(types []string) string {
	names := map[string]string{
		"object": "a mapping", "array": "a list", "string": "a string", "boolean": "true or false",
		"integer": "a whole number", "number": "a number", "null": "nothing",
	}
	var words []string
	for _, t := range types {
		if w := names[t]; !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	return orList(words)
}
