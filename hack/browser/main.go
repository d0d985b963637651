// Command browser opens pages in headless Chromium and prints what it found out about them, as JSON.
//
//	browser < JOB
//
// A job is a JSON object: see type job. Chromium's path is part of it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// job is what to do.
type job struct {
	// Chromium is the path of the program, and Axe that of axe-core's script.
	Chromium, Axe string
	// Pages are the URLs to look at, in each of the Widths.
	Pages  []string
	Widths []int
	// Searches are typed into the field of a page.
	Searches []search
	// Shots are pictures to take.
	Shots []shot
}

type search struct{ Page, Query string }

type shot struct {
	Page, File    string
	Width, Height int
	Dark          bool
}

// report is what was found.
type report struct {
	// Requests are the URLs that were asked for, each once, and Console what pages said there.
	Requests, Console []string
	// Layout is what overlaps, is clipped, or makes a page wider than its window.
	Layout []string
	// Violations are axe-core's, of a serious or a critical impact; Rules is how many of its rules passed somewhere.
	Violations []string
	Rules      int
	// Hits are what each search found.
	Hits [][]hit
}

type hit struct{ Name, Link string }

// patience is how long a start, a page or a search may take: tests of clusters run next to it.
const patience = 2 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		return err
	}
	axe, err := os.ReadFile(j.Axe)
	if err != nil {
		return err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(j.Chromium), chromedp.Flag("hide-scrollbars", true), chromedp.WSURLReadTimeout(patience))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // which root cannot have
	}
	ctx, cancel := chromedp.NewExecAllocator(ctx, options...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	w := &watcher{seen: map[string]bool{}}
	chromedp.ListenTarget(ctx, w.note)
	if err := chromedp.Run(ctx, network.Enable(), log.Enable()); err != nil {
		return fmt.Errorf("start %s: %w", j.Chromium, err)
	}
	v := &visitor{axe: string(axe), watcher: w, passed: map[string]bool{}}
	for _, step := range []func(context.Context, *job) error{v.visitPages, v.search, v.takeShots} {
		if err := step(ctx, &j); err != nil {
			return err
		}
	}
	v.report.Rules = len(v.passed)
	w.mu.Lock()
	defer w.mu.Unlock()
	v.report.Requests, v.report.Console = w.requests, w.console
	return json.NewEncoder(os.Stdout).Encode(v.report)
}

// watcher notes requests and what is said on the console.
type watcher struct {
	mu       sync.Mutex
	page     string
	seen     map[string]bool
	requests []string
	console  []string
}

func (w *watcher) note(event any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if !w.seen[e.Request.URL] {
			w.seen[e.Request.URL] = true
			w.requests = append(w.requests, e.Request.URL)
		}
	case *runtime.EventConsoleAPICalled:
		for _, arg := range e.Args {
			w.console = append(w.console, fmt.Sprintf("%s: %s: %s", w.page, e.Type, arg.Value))
		}
	case *runtime.EventExceptionThrown:
		w.console = append(w.console, fmt.Sprintf("%s: %s", w.page, e.ExceptionDetails.Error()))
	case *log.EventEntryAdded:
		w.console = append(w.console, fmt.Sprintf("%s: %s %s: %s", w.page, e.Entry.Source, e.Entry.Level, e.Entry.Text))
	case *page.EventJavascriptDialogOpening:
		w.console = append(w.console, fmt.Sprintf("%s: dialog: %s", w.page, e.Message))
	}
}

func (w *watcher) setPage(url string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.page = url
}

type visitor struct {
	*watcher
	axe    string
	passed map[string]bool
	report report
}

func (v *visitor) open(ctx context.Context, url string) error {
	v.setPage(url)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := chromedp.Run(ctx, chromedp.Navigate(url), chromedp.WaitReady("body")); err != nil {
		return fmt.Errorf("open %s: %w", url, err)
	}
	return nil
}

// findFaults is a function that returns what is wrong with the layout of a page.
const findFaults = `(() => {
  const faults = [], boxes = [];
  document.querySelectorAll("details").forEach(d => { d.open = true; });
  const name = node => JSON.stringify(node.textContent.trim().slice(0, 40));
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) faults.push("the page is " + wide + " wide");
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.textContent.trim()) continue;
    const element = node.parentElement;
    if (element.closest("title,desc,style,script,.skip")) continue;
    const style = getComputedStyle(element);
    if (style.visibility !== "visible" || style.opacity === "0") continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const scroller = element.closest(".scroll");
    for (const r of range.getClientRects()) {
      if (r.width < 1 || r.height < 1) continue;
      if (!scroller && (r.left < -1 || r.right > innerWidth + 1)) faults.push(name(node) + " leaves the window");
      boxes.push([r.top + scrollY, r.bottom + scrollY, r.left, r.right, node]);
    }
    for (let up = element; up && up !== document.body; up = up.parentElement) {
      const s = getComputedStyle(up);
      const hides = s.overflowX === "hidden" || s.overflowX === "clip" || s.overflowY === "hidden" || s.overflowY === "clip";
      if (hides && (up.scrollWidth > up.clientWidth + 1 || up.scrollHeight > up.clientHeight + 1) && up.tagName.toLowerCase() !== "svg") faults.push(name(node) + " is clipped by " + up.tagName);
      if (s.textOverflow === "ellipsis") faults.push(name(node) + " may be cut");
    }
  }
  boxes.sort((a, b) => a[0] - b[0]);
  for (let i = 0; i < boxes.length; i++) {
    const a = boxes[i];
    for (let k = i + 1; k < boxes.length && boxes[k][0] < a[1] - 4; k++) {
      const b = boxes[k];
      if (a[4] !== b[4] && Math.min(a[3], b[3]) - Math.max(a[2], b[2]) > 2) {
        // What is scrolled out of a container is not seen.
        const clip = n => { const s = n.parentElement.closest(".scroll"); return s ? s.getBoundingClientRect() : null; };
        const ca = clip(a[4]), cb = clip(b[4]);
        const left = Math.max(a[2], b[2], ca ? ca.left : 0, cb ? cb.left : 0), right = Math.min(a[3], b[3], ca ? ca.right : 1e9, cb ? cb.right : 1e9);
        if (right - left > 2) faults.push(name(a[4]) + " overlaps " + name(b[4]));
      }
    }
  }
  return [...new Set(faults)].slice(0, 20);
})()`

// runAxe is a promise of axe-core's violations that are serious, and of the rules that passed.
const runAxe = `axe.run(document, {preload: false, resultTypes: ["violations", "passes"]}).then(r => ({
  passes: r.passes.map(p => p.id),
  violations: r.violations.filter(v => v.impact === "serious" || v.impact === "critical").map(v => v.id + ": " + v.help + ": " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + " " + (n.any[0] ? n.any[0].message : "")).join(" | "))
}))`

func (v *visitor) visitPages(ctx context.Context, j *job) error {
	for _, url := range j.Pages {
		if err := v.open(ctx, url); err != nil {
			return err
		}
		for _, width := range j.Widths {
			var faults []string
			err := chromedp.Run(ctx, emulation.SetDeviceMetricsOverride(int64(width), 900, 1, false), chromedp.Evaluate(findFaults, &faults))
			if err != nil {
				return fmt.Errorf("lay out %s: %w", url, err)
			}
			for _, fault := range faults {
				v.report.Layout = append(v.report.Layout, fmt.Sprintf("%s at %d: %s", url, width, fault))
			}
		}
		if err := v.audit(ctx, url); err != nil {
			return err
		}
	}
	return nil
}

// audit runs axe-core on the page, in its light and its dark form.
func (v *visitor) audit(ctx context.Context, url string) error {
	for _, scheme := range []string{"light", "dark"} {
		var found struct{ Passes, Violations []string }
		await := func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
		err := chromedp.Run(ctx, setScheme(scheme), chromedp.Evaluate(v.axe+"\n;0", nil), chromedp.Evaluate(runAxe, &found, await))
		if err != nil {
			return fmt.Errorf("audit %s: %w", url, err)
		}
		for _, rule := range found.Passes {
			v.passed[rule] = true
		}
		for _, violation := range found.Violations {
			v.report.Violations = append(v.report.Violations, fmt.Sprintf("%s (%s): %s", url, scheme, violation))
		}
	}
	return nil
}

func setScheme(scheme string) chromedp.Action {
	return emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}})
}

// search types into the field of pages, and lists what comes up.
func (v *visitor) search(ctx context.Context, j *job) error {
	for _, s := range j.Searches {
		if err := v.open(ctx, s.Page); err != nil {
			return err
		}
		var hits []hit
		var typed, said string
		limited, cancel := context.WithTimeout(ctx, patience)
		err := chromedp.Run(limited,
			// It leads into the field, and is not typed there: one event, since a second would be for the field.
			input.DispatchKeyEvent(input.KeyDown).WithKey("/").WithCode("Slash").WithText("/").WithWindowsVirtualKeyCode(191),
			input.DispatchKeyEvent(input.KeyUp).WithKey("/").WithCode("Slash").WithWindowsVirtualKeyCode(191),
			chromedp.KeyEvent(s.Query),
			chromedp.Poll(`document.getElementById("found").textContent !== ""`, nil),
			chromedp.Evaluate(`document.getElementById("search").value`, &typed),
			chromedp.Evaluate(`document.getElementById("found").textContent`, &said),
			chromedp.Evaluate(`[...document.querySelectorAll("#hits a")].map(a => ({Name: a.textContent, Link: a.href}))`, &hits),
		)
		cancel()
		if err != nil {
			return fmt.Errorf("search %s for %q: %w", s.Page, s.Query, err)
		}
		if typed != s.Query {
			return fmt.Errorf("search %s for %q: the field has %q, and the page says %q", s.Page, s.Query, typed, said)
		}
		if len(hits) > 0 {
			// The first hit leads somewhere.
			if err := v.open(ctx, strings.TrimSpace(hits[0].Link)); err != nil {
				return err
			}
		}
		v.report.Hits = append(v.report.Hits, hits)
	}
	return nil
}

func (v *visitor) takeShots(ctx context.Context, j *job) error {
	for _, s := range j.Shots {
		scheme := "light"
		if s.Dark {
			scheme = "dark"
		}
		var picture []byte
		err := chromedp.Run(ctx, emulation.SetDeviceMetricsOverride(int64(s.Width), int64(s.Height), 1, false), setScheme(scheme))
		if err == nil {
			err = v.open(ctx, s.Page)
		}
		if err == nil {
			err = chromedp.Run(ctx, chromedp.CaptureScreenshot(&picture))
		}
		if err == nil {
			err = os.WriteFile(s.File, picture, 0o644)
		}
		if err != nil {
			return fmt.Errorf("picture of %s: %w", s.Page, err)
		}
	}
	return nil
}
