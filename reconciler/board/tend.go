package board

import (
	"context"
	"sync"
)

// Tend runs one function for each thing that a board wants, until it does not want
// it any more or ctx ends, and returns when all have. Renewed tells that what is
// wanted may have changed.
func Tend[T comparable](ctx context.Context, wanted func() []T, renewed func() <-chan struct{}, run func(context.Context, T)) {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running := map[T]context.CancelFunc{}
	for {
		now := map[T]bool{}
		for _, w := range wanted() {
			now[w] = true
			if running[w] == nil {
				own, end := context.WithCancel(ctx)
				running[w] = end
				all.Go(func() { run(own, w) })
			}
		}
		for w, end := range running {
			if !now[w] {
				end()
				delete(running, w)
			}
		}
		select {
		case <-renewed():
		case <-ctx.Done():
			return
		}
	}
}
