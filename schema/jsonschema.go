package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// object is a JSON object under construction; encoding/json sorts its keys.
type object = map[string]any

// JSONSchema returns the JSON Schema (draft 2020-12) of a kind, or of all documents if
// kind is empty. It is for editors, such as those with yaml-language-server.
func JSONSchema(kind string) ([]byte, error) {
	kinds := Kinds()
	if kind != "" {
		if !slices.Contains(kinds, kind) {
			return nil, fmt.Errorf("kind %q is not known; want %s", kind, orList(kinds))
		}
		kinds = []string{kind}
	}
	defs := object{}
	var choices []object
	for _, k := range kinds {
		defs[k] = documentSchema(k)
		choices = append(choices, object{"$ref": "#/$defs/" + k})
	}
	root := object{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"$id":     "https://" + APIVersion + "/schema.json",
		"title":   "gray documents",
		"$defs":   defs,
		"oneOf":   choices,
	}
	return json.MarshalIndent(root, "", "  ")
}

func documentSchema(kind string) object {
	return object{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []string{"kind", "metadata", "spec"},
		"properties": object{
			"apiVersion": object{"const": APIVersion, "default": APIVersion},
			"kind":       object{"const": kind},
			"metadata":   typeSchema(reflect.TypeFor[Metadata](), rules{}),
			"spec":       typeSchema(reflect.TypeOf(newSpec(kind)).Elem(), rules{}),
		},
	}
}

// scalarSchemas has the types that are read by UnmarshalText.
var scalarSchemas = map[reflect.Type]object{
	reflect.TypeFor[VNI]():       {"type": "integer", "minimum": 0, "maximum": MaxVNI},
	reflect.TypeFor[Addr]():      {"type": "string", "anyOf": []object{{"format": "ipv4"}, {"format": "ipv6"}}},
	reflect.TypeFor[Prefix]():    {"type": "string", "pattern": `^[0-9a-fA-F.:]+(/[0-9]{1,3})?$`},
	reflect.TypeFor[MAC]():       {"type": "string", "pattern": `^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$`},
	reflect.TypeFor[Protocol]():  {"anyOf": []object{{"enum": []string{"tcp", "udp", "icmp"}}, {"type": "integer", "minimum": 0, "maximum": 255}, {"type": "string", "pattern": `^[0-9]{1,3}$`}}},
	reflect.TypeFor[PortRange](): {"oneOf": []object{{"type": "integer", "minimum": 0, "maximum": 65535}, {"type": "string", "pattern": `^[0-9]{1,5}(-[0-9]{1,5})?$`}}},
	reflect.TypeFor[Duration]():  {"anyOf": []object{{"type": "string", "pattern": `^\+?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|[µμ]s|ms|s|m|h))+$|^[+-]?0+$`}, {"const": 0}}},
	reflect.TypeFor[Community](): {"type": "string", "pattern": `^[0-9]{1,5}:[0-9]{1,5}$`},
	reflect.TypeFor[Percent]():   {"type": "string", "pattern": `^[0-9]{1,3}%$`},
	reflect.TypeFor[Batch]():     {"oneOf": []object{{"type": "integer", "minimum": 1}, {"type": "string", "pattern": `^[0-9]+%?$`}}},
}

// typeSchema is the schema of a Go type with a field's rules.
func typeSchema(t reflect.Type, r rules) object {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s, ok := scalarSchemas[t]; ok {
		return maps.Clone(s)
	}
	switch t.Kind() {
	case reflect.Struct:
		return structSchema(t)
	case reflect.Slice:
		each := r
		each.required = false
		items := typeSchema(t.Elem(), each)
		delete(items, "default")
		s := object{"type": "array", "items": items}
		if r.required || r.nonempty {
			s["minItems"] = 1
		}
		return s
	case reflect.Map:
		s := object{"type": "object", "additionalProperties": typeSchema(t.Elem(), r)}
		if r.required || r.nonempty {
			s["minProperties"] = 1
		}
		return s
	case reflect.String:
		return stringSchema(r)
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Interface:
		return object{}
	}
	low, high := r.bounds(t.Kind())
	s := object{"type": "integer", "minimum": low, "maximum": high}
	if r.def != "" {
		s["default"] = *mustInt(r.def)
	}
	return s
}

func stringSchema(r rules) object {
	s := object{"type": "string"}
	if r.def != "" {
		s["default"] = r.def
	}
	if r.enum != nil {
		s["enum"] = r.enum
		if !r.required {
			s["default"] = r.enum[0]
		}
	}
	if r.label {
		s["pattern"] = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
	}
	if r.required {
		s["minLength"] = 1
	}
	return s
}

func structSchema(t reflect.Type) object {
	properties := object{}
	required := []string{}
	for _, f := range fieldsOf(t).list {
		s := typeSchema(t.Field(f.index).Type, f.rules)
		s["description"] = f.doc
		properties[f.name] = s
		if f.rules.required {
			required = append(required, f.name)
		}
	}
	return object{"type": "object", "additionalProperties": false, "properties": properties, "required": required}
}
