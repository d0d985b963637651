package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"krtpkg.dev/krtpkg/bundles"
	"krtpkg.dev/krtpkg/internal/starter"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/layers"
)

// decisionWalk asks for the decisions, category by category.
type decisionWalk struct {
	ui      *ui.UI
	model   *layers.Model
	ready   []bundles.Ready
	answers *starter.Answers
	// there are the bundles of the ready runtime.
	there []bundles.Use
}

func (w *decisionWalk) askAll(ctx context.Context) error {
	for _, field := range []struct {
		question string
		value    *string
	}{
		{"Name of the runtime", &w.answers.Name},
		{"Ready runtime to start from: edge, enterprise, air-gapped, observability, delivery or none", &w.answers.From},
	} {
		answer, err := w.ui.Ask(ctx, ui.Sprintf("%s [%s]:", field.question, *field.value))
		if err != nil {
			return err
		}
		*field.value = cmp.Or(answer, *field.value)
	}
	if w.answers.From != "none" {
		var err error
		if w.there, err = bundles.Runtime(w.answers.From, w.ready); err != nil {
			return fmt.Errorf("no ready runtime named %q", w.answers.From)
		}
	}
	w.ui.Note("\nFor each category: products by number or name, with commas between; \"outside\" if it comes\n" +
		"from elsewhere; \"none\" for nothing yet; ENTER for what is there; \"done\" to stop asking.")
	for _, l := range w.model.Layers {
		for _, c := range l.Categories {
			done, err := w.askCategory(ctx, l, c)
			if err != nil || done {
				return err
			}
		}
	}
	return nil
}

// askCategory asks about one until the answer can be taken.
func (w *decisionWalk) askCategory(ctx context.Context, l layers.LayerModel, c layers.Category) (done bool, err error) {
	w.ui.Note("\nLayer %d, %s: %s. %s", l.Number, l.Name, c.Title, c.Purpose)
	for _, q := range c.Questions {
		w.ui.Note("  ? %s", q)
	}
	for i, p := range c.Products {
		w.ui.Note("  %d %s%s", i+1, p.Name, w.productMark(l.Number, c, p))
	}
	for {
		answer, err := w.ui.AskText(ctx, ui.Sprintf("%s [%s]:", c.Title, w.currentFill(c)))
		switch {
		case err != nil || answer == "done":
			return true, endOfInput(err)
		case answer == "":
			return false, nil
		}
		if err := w.answers.AddChoice(c.ID+"="+replaceNumbers(answer, c), w.model); err != nil {
			w.ui.Note("%v", err)
			continue
		}
		return false, w.askReasons(ctx, c)
	}
}

// askReasons asks why, and the questions.
func (w *decisionWalk) askReasons(ctx context.Context, c layers.Category) error {
	d := w.answers.Decisions[c.ID]
	why, err := w.ui.AskText(ctx, "Why:")
	if err := endOfInput(err); err != nil {
		return err
	}
	d.Why, d.Answers = why, nil
	for _, q := range c.Questions {
		answer, err := w.ui.AskText(ctx, q)
		if err := endOfInput(err); err != nil {
			return err
		}
		d.Answers = append(d.Answers, answer)
	}
	w.answers.Decisions[c.ID] = d
	return nil
}

// endOfInput takes the end of what is typed for the end of the questions.
func endOfInput(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// currentFill returns what fills a category without an answer.
func (w *decisionWalk) currentFill(c layers.Category) string {
	var names []string
	for _, u := range w.there {
		if u.Category == c.ID {
			names = append(names, u.Product)
		}
	}
	return cmp.Or(strings.Join(names, ", "), "none")
}

// productMark returns how a product is delivered and whether there is a bundle for it.
func (w *decisionWalk) productMark(layer int, c layers.Category, p layers.Product) string {
	if p.Delivery == layers.Retired {
		return " (retired)"
	}
	if slices.ContainsFunc(w.ready, func(r bundles.Ready) bool { return r.Layer == layer && r.Category == c.ID && r.Product == p.ID }) {
		return fmt.Sprintf(" (%s, ready)", p.Delivery)
	}
	return fmt.Sprintf(" (%s)", p.Delivery)
}

// replaceNumbers turns the numbers of an answer into ids.
func replaceNumbers(answer string, c layers.Category) string {
	parts := strings.Split(answer, ",")
	for i, part := range parts {
		if n, err := strconv.Atoi(strings.TrimSpace(part)); err == nil && n >= 1 && n <= len(c.Products) {
			parts[i] = c.Products[n-1].ID
		}
	}
	return strings.Join(parts, ",")
}
