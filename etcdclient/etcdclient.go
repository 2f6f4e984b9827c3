// Package etcdclient connects gray to an etcd, for the source of endpoints and for the
// store of replicas: which members, which user, how long to wait, and what errors say.
package etcdclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/status"
)

// Bounds of a client.
const (
	AnswerWait = 3 * time.Second // for etcd's answer to one request
	firstPause = 200 * time.Millisecond
	LongPause  = 30 * time.Second // the longest Pause
	MaxMessage = 32 << 20         // bytes of one answer
)

// Config says which etcd to ask, and how.
type Config struct {
	Members  []string    // http:// or https:// URLs; none: nothing can be looked up
	TLS      *tls.Config // for https
	Username string
	Password string
	Pulse    time.Duration // how often to check that etcd answers and has its history; 0: 2 s
	Log      *slog.Logger
}

// Dial makes a client that lives until ctx ends. If there is a user, it logs in.
func (cfg Config) Dial(ctx context.Context) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: cfg.Members, TLS: cfg.TLS, Username: cfg.Username, Password: cfg.Password,
		DialTimeout: AnswerWait, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: AnswerWait,
		MaxCallRecvMsgSize: MaxMessage, Logger: zap.NewNop(),
		MaxUnaryRetries: 4, BackoffWaitBetween: 100 * time.Millisecond,
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(notPatient), grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: firstPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: AnswerWait}, MinConnectTimeout: AnswerWait,
		})},
	})
	if err != nil {
		return nil, Plain(err)
	}
	return client, nil
}

// notPatient makes a call fail, and say why, if no member can be reached. etcd's client
// would wait.
func notPatient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// Plain returns an error of etcd on one line, without what gRPC adds.
func Plain(err error) error {
	text := err.Error()
	if st, ok := status.FromError(err); ok {
		text = st.Message()
	}
	if errors.Is(err, context.DeadlineExceeded) || strings.Contains(text, context.DeadlineExceeded.Error()) {
		text = fmt.Sprintf("no answer within %s", AnswerWait)
	}
	return errors.New(strings.Join(strings.Fields(text), " "))
}

// Pause is how long to wait before the next attempt; zero: not at all.
type Pause struct{ Next time.Duration }

// Grow makes the pause longer, from 200 ms up to most and LongPause.
func (p *Pause) Grow(most time.Duration) { p.Next = min(max(2*p.Next, firstPause), LongPause, most) }
