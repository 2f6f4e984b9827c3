package reconciler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// What the sources of facts act on lives at no sink: which servers are checked and
// how, where overlay pings come from and whom they ask, what is looked up in etcd. A
// plan shows it all the same, as resources of targets that no sink works at. They are
// in force with their commit.

// The targets of wishes.
const (
	targetHealth = "health"
	targetProbe  = "probe"
	targetEtcd   = "etcd"
)

// wish is the body of such a resource: all that is acted on, in words.
type wish []string

// Equal implements Body.
func (w wish) Equal(o Body) bool {
	was, ok := o.(wish)
	return ok && slices.Equal(w, was)
}

// String is the words, the first few of many.
func (w wish) String() string {
	const most = 10
	if len(w) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(w[:most], ", "), len(w)-most)
	}
	return strings.Join(w, ", ")
}

// Delta is the words that differ.
func (w wish) Delta(old Body) string {
	was, _ := old.(wish)
	return fmt.Sprintf("%s -> %s", was.without(w), w.without(was))
}

func (w wish) without(o wish) wish {
	has := map[string]bool{}
	for _, word := range o {
		has[word] = true
	}
	left := slices.DeleteFunc(slices.Clone(w), func(word string) bool { return has[word] })
	if len(left) == 0 {
		return wish{"none"}
	}
	return left
}

// isWish tells whether a resource is nothing that lives at a sink.
func isWish(res *Resource) bool {
	_, is := res.Body.(wish)
	return is
}

// wishes is what a unit has the sources of facts do.
func wishes(ir *policies.IR, n policies.Name) (all []*Resource) {
	add := func(target, name string, origin schema.Position, words wish) {
		all = append(all, &Resource{Key: Key{target, n.Kind, name}, Body: words, Origin: origin})
	}
	switch unit := ir.Get(n).(type) {
	case *packets.Gateway:
		if unit.Health != nil {
			add(targetHealth, n.Name, unit.Origin, append(howToCheck(unit.Health), servers(unit)...))
		}
	case *policies.Network:
		if unit.Monitor != nil || unit.Routes > 0 {
			add(targetProbe, n.Name, unit.Origin, whomToProbe(unit))
		}
	case *requests.Service:
		for _, v := range unit.Versions {
			if v.Etcd != "" {
				add(targetEtcd, n.Name+"/"+v.Name, v.Origin, wish{v.Etcd})
			}
		}
	}
	return all
}

func howToCheck(h *packets.HealthCheck) wish {
	kind := "icmp"
	switch {
	case h.TCP != 0:
		kind = fmt.Sprintf("tcp %d", h.TCP)
	case h.HTTP.Port != 0:
		kind = fmt.Sprintf("http %d%s", h.HTTP.Port, h.HTTP.Path)
	}
	return wish{kind, fmt.Sprint("interval ", h.Interval), fmt.Sprint("timeout ", h.Timeout), fmt.Sprint("rise ", h.Rise), fmt.Sprint("fall ", h.Fall)}
}

func servers(gw *packets.Gateway) (all wish) {
	for _, p := range gw.Pools {
		for _, b := range p.Backends {
			all = append(all, fmt.Sprintf("%s/%s %s", p.Version, b.Name, b.Address))
		}
	}
	return all
}

func whomToProbe(n *policies.Network) wish {
	words := wish{fmt.Sprint("vni ", n.VNI)}
	if m := n.Monitor; m != nil {
		words = append(words, fmt.Sprintf("monitor %s mac %s vtep %s", m.Address, m.MAC, m.VTEP))
	}
	if n.Routes > 0 {
		words = append(words, fmt.Sprintf("%d routes %s", n.Routes, n.Digest))
	}
	return words
}
