package schema

import (
	"path"
	"slices"
)

// P4InfoFile is the name of the P4Info in the folder of a pipeline, in protobuf's text
// format.
const P4InfoFile = "p4info.txtpb"

// deviceConfigFiles are the possible names of the device config in the folder of a
// pipeline: the output of the switch's P4 compiler, for p4_device_config.
var deviceConfigFiles = [...]string{"device_config.bin", "device_config.json"}

// The largest files of a pipeline, in bytes. A parsed P4Info takes many times its size.
const (
	MaxP4Info       = 1 << 20
	MaxDeviceConfig = 16 << 20
)

// The pipelines of gray's own.
const (
	PipelineV1Model = "v1model"
	PipelineTNA     = "tna"
)

// IsPipelineFile tells, by its name, whether a file may be part of a pipeline.
func IsPipelineFile(p string) bool {
	name := path.Base(p)
	return name == P4InfoFile || slices.Contains(deviceConfigFiles[:], name)
}

// Pipeline is the files of the folder of a pipeline.
type Pipeline struct {
	P4Info       *File
	DeviceConfig *File // nil: there is none
}

// Pipeline returns the pipeline in a folder. If Err reports an error of it, its P4Info
// may be nil or a file may have an Err.
func (s *Set) Pipeline(folder string) Pipeline {
	pipe := Pipeline{P4Info: s.files.Get(path.Join(folder, P4InfoFile))}
	for _, name := range deviceConfigFiles {
		if f := s.files.Get(path.Join(folder, name)); f != nil {
			pipe.DeviceConfig = f
		}
	}
	return pipe
}

// pipelineFolder is the folder of a Switch's pipeline, or "".
func pipelineFolder(d *Document) string {
	if sw, ok := d.Spec.(*SwitchSpec); ok && sw.Pipeline != PipelineV1Model && sw.Pipeline != PipelineTNA {
		return sw.Pipeline
	}
	return ""
}

// folderUsers is the documents that name each folder, with the error to report there, or
// nil.
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

// updatePipeline checks the folder of a changed file again if documents name it as a
// pipeline.
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

// checkPipeline returns what is wrong with the folder of a Switch's pipeline, or nil.
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
