package schema

import (
	"path"
	"slices"
)

// P4InfoFile is the name of the P4Info in the folder of a pipeline, a P4Info of
// P4Runtime in the text format of protobuf.
const P4InfoFile = "p4info.txtpb"

// deviceConfigFiles are the names that the device config in the folder of a
// pipeline may have: what the switch's compiler makes of the P4 program, as the
// switch wants it in p4_device_config.
var deviceConfigFiles = [...]string{"device_config.bin", "device_config.json"}

// The largest files of a pipeline that are read, in bytes. A P4Info takes many
// times its size when it is parsed.
const (
	MaxP4Info       = 1 << 20
	MaxDeviceConfig = 16 << 20
)

// The pipelines that gray brings along.
const (
	PipelineV1Model = "v1model"
	PipelineTNA     = "tna"
)

// IsPipelineFile tells whether a file may belong to a pipeline by its name.
func IsPipelineFile(p string) bool {
	name := path.Base(p)
	return name == P4InfoFile || slices.Contains(deviceConfigFiles[:], name)
}

// Pipeline is the files of a folder that holds a pipeline.
type Pipeline struct {
	P4Info       *File
	DeviceConfig *File // nil: there is none
}

// Pipeline is the pipeline in a folder. Its P4Info is nil, or a file has an Err,
// where Err tells so.
func (s *Set) Pipeline(folder string) Pipeline {
	pipe := Pipeline{P4Info: s.files.Get(path.Join(folder, P4InfoFile))}
	for _, name := range deviceConfigFiles {
		if f := s.files.Get(path.Join(folder, name)); f != nil {
			pipe.DeviceConfig = f
		}
	}
	return pipe
}

// pipelineFolder is the folder that a Switch's pipeline lies in, or "".
func pipelineFolder(d *Document) string {
	if sw, ok := d.Spec.(*SwitchSpec); ok && sw.Pipeline != PipelineV1Model && sw.Pipeline != PipelineTNA {
		return sw.Pipeline
	}
	return ""
}

// folderUsers is the documents that name a folder, with what is wrong with it
// for each, or nil.
type folderUsers map[string]map[*Document]*Error

func (f folderUsers) add(folder string, d *Document, wrong *Error) {
	if f[folder] == nil {
		f[folder] = map[*Document]*Error{}
	}
	f[folder][d] = wrong
}

func (f folderUsers) remove(folder string, d *Document) {
	delete(f[folder], d)
	if len(f[folder]) == 0 {
		delete(f, folder)
	}
}

func (f folderUsers) errs() Errors {
	var errs Errors
	for _, users := range f {
		for _, err := range users {
			if err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

// updatePipeline looks at a pipeline's folder again if documents name it and one
// of its files changed.
func (s *Set) updatePipeline(p string, touched map[Name]bool) {
	folder := path.Dir(p)
	if !IsPipelineFile(p) {
		return
	}
	for d := range s.folders[folder] {
		s.folders.add(folder, d, s.checkPipeline(folder, d))
		touched[d.Name] = true
	}
}

// checkPipeline says what a Switch misses in the folder of its pipeline, or nil.
func (s *Set) checkPipeline(folder string, d *Document) *Error {
	pipe := s.Pipeline(folder)
	var have []string
	for _, name := range append([]string{P4InfoFile}, deviceConfigFiles[:]...) {
		file := s.files.Get(path.Join(folder, name))
		if file != nil && file.Err != nil {
			return d.Errorf("spec.pipeline", "%s: %w", clip(file.Path), file.Err)
		}
		if file != nil && name != P4InfoFile {
			have = append(have, name)
		}
	}
	switch {
	case pipe.P4Info == nil:
		return d.Errorf("spec.pipeline", "there is no file %q in the repository; name %s, %s or a folder that holds one",
			clip(path.Join(folder, P4InfoFile)), PipelineV1Model, PipelineTNA)
	case len(have) > 1:
		return d.Errorf("spec.pipeline", "folder %q holds %s and %s; keep the one that the switch wants", clip(folder), have[0], have[1])
	case len(have) == 0 && d.Spec.(*SwitchSpec).PushPipeline != "never":
		return d.Errorf("spec.pipeline", "folder %q holds no %s to load; put the device config there, or load the pipeline by other means and set pushPipeline: never",
			clip(folder), orList(deviceConfigFiles[:]))
	}
	return nil
}
