package apiserver

import (
	"context"
	"io"
	"net/http"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// WithoutLogs keeps client-go from logging that a request was cut off.
func WithoutLogs(ctx context.Context) context.Context {
	return klog.NewContext(ctx, logr.Discard())
}

// IgnoreNotFound returns nil for the error of an object that does not exist, and any other error as it is.
func IgnoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// BindContext returns the configuration of clients whose requests end with ctx. It is for code that passes no context of
// its own, such as kapp's.
func BindContext(ctx context.Context, config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &boundTransport{ctx: ctx, next: next}
	})
	return config
}

// boundTransport refuses requests after ctx has ended, and cuts off those without an answer:
// the API server may hold a write back for seconds, and it should not happen behind the back
// of the next call. An answer that has begun is read to its end, because client-go logs an
// error otherwise. boundTransport keeps a context because kapp passes none of ours.
type boundTransport struct {
	ctx  context.Context
	next http.RoundTripper
}

func (t *boundTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(CopyFence(req.Context(), t.ctx))
	stop := context.AfterFunc(t.ctx, cancel)
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if !stop() && err == nil {
		resp.Body.Close()
		err = t.ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &boundBody{resp.Body, cancel}
	return resp, nil
}

// boundBody ends its request's context when it is closed.
type boundBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *boundBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
