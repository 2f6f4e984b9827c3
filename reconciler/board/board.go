// Package board has what lies between the loop and the sources of facts: the loop
// writes on a board what is wanted, a source what it found out. Neither waits for the
// other, and a board wakes the loop without handing it data.
package board

import (
	"context"
	"slices"
	"sync"
)

// Board carries wishes from the loop to a source, and wakes the loop when the source
// has news. Health, Discovery, Probes, Follow and Hints are boards, each with the facts
// that its source finds.
type Board[W comparable] struct {
	mu      sync.Mutex // guards the facts as well
	wanted  []W
	renewed chan struct{}
	wake    chan struct{}
}

func newBoard[W comparable]() *Board[W] {
	return &Board[W]{renewed: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

// Wanted is what the source is to do. It is not changed any more.
func (b *Board[W]) Wanted() []W {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wanted
}

// Renewed gets a value when Wanted has changed.
func (b *Board[W]) Renewed() <-chan struct{} { return b.renewed }

// Woken gets a value when there is news for the loop; never of a nil board.
func (b *Board[W]) Woken() <-chan struct{} {
	if b == nil {
		return nil
	}
	return b.wake
}

// want replaces the wishes. The caller holds the lock.
func (b *Board[W]) want(wishes []W) {
	b.wanted = wishes
	poke(b.renewed)
}

// wants tells whether something is still wanted. The caller holds the lock.
func (b *Board[W]) wants(wish W) bool { return slices.Contains(b.wanted, wish) }

// news wakes the loop.
func (b *Board[W]) news() { poke(b.wake) }

// poke leaves a value in a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Tend runs one function for each wish, until it is not wanted any more or ctx ends,
// and returns when all have.
func (b *Board[W]) Tend(ctx context.Context, run func(context.Context, W)) {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running := map[W]context.CancelFunc{}
	for {
		now := map[W]bool{}
		for _, w := range b.Wanted() {
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
		case <-b.Renewed():
		case <-ctx.Done():
			return
		}
	}
}
