package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"krtpkg.dev/krtpkg/internal/place"
	"krtpkg.dev/krtpkg/internal/ui"
	"krtpkg.dev/krtpkg/pkg/archive"
	"krtpkg.dev/krtpkg/pkg/parity"
	"krtpkg.dev/krtpkg/pkg/progress"
	"krtpkg.dev/krtpkg/pkg/result"
)

// maxParityVolumes is how many there can be next to a single other one.
const maxParityVolumes = 254

// parityFlags are what an export adds so that damage can be healed.
type parityFlags struct {
	parity  string
	volumes int
	// percent is what parity says.
	percent int
}

func (f *parityFlags) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&f.parity, "parity", "", "amount of parity to add to each file, such as 10%, from which damage is repaired")
	flags.IntVar(&f.volumes, "parity-volumes", 0, "with --volume-size and --parity: number of parity volumes to write, from which as many lost volumes are restored")
}

// parsePercent reads the percentage. It returns a usage error for what does not go together.
func (f *parityFlags) parsePercent(isStream, isSplit bool) (err error) {
	switch {
	case f.volumes < 0 || f.volumes > maxParityVolumes:
		return &usageError{fmt.Errorf("--parity-volumes %d: want a number of volumes up to %d", f.volumes, maxParityVolumes)}
	case f.volumes > 0 && (f.parity == "" || !isSplit):
		return &usageError{errors.New("--parity-volumes requires --volume-size and --parity: a volume is restored from verified parts of the others")}
	case f.parity == "":
		return nil
	case isStream:
		return &usageError{errors.New("--parity cannot be used with - (standard output), --zstd or a file named *.zst: parity is computed from the finished file")}
	}
	if f.percent, err = strconv.Atoi(strings.TrimSuffix(f.parity, "%")); err != nil || f.percent < 1 || f.percent > 100 {
		return &usageError{fmt.Errorf("--parity %q: want a percentage from 1%% to 100%%", f.parity)}
	}
	return nil
}

// writeParityVolumes writes the parity volumes, or only plans them.
func (a *app) writeParityVolumes(ctx context.Context, file string, names []string, volumes []archive.Contents, f exportFlags, report progress.Func) (files []result.File, err error) {
	parityNames := archive.ParityVolumeNames(file, f.parity.volumes)
	if f.dryRun {
		sizes, err := archive.PlanParityVolumes(volumes)
		for i, size := range sizes {
			files = append(files, result.File{Name: parityNames[i], Bytes: size})
		}
		return files, err
	}
	a.ui.Say("parity of %s: %s", countNoun(len(names), "volume"), strings.Join(parityNames, ", "))
	written, err := archive.WriteParityVolumes(ctx, names, parityNames, volumes, report)
	if errors.Is(err, archive.ErrDamaged) {
		return nil, fmt.Errorf("%w: repair it with krtpkg check --repair, or remove it and export again", err)
	}
	for i, file := range written {
		files = append(files, result.File{Name: parityNames[i], Bytes: file.Size})
	}
	return files, err
}

// refuseOtherParity returns an error if there is something else where parity volumes are to be written.
func refuseOtherParity(ctx context.Context, file string, n int) error {
	for _, name := range archive.ParityVolumeNames(file, n) {
		if info, err := os.Lstat(name); err == nil && info.Size() > 0 && !archive.HoldsParity(ctx, name) {
			return &otherArchiveError{name, "something other than a parity volume"}
		}
	}
	return nil
}

// noteHealed tells what was healed in archives that were read in place.
func (a *app) noteHealed() {
	for _, store := range a.archives {
		healed := store.HealedBytes()
		for _, file := range slices.Sorted(maps.Keys(healed)) {
			bytes := healed[file]
			a.ui.Note("note: %s is damaged: %s repaired while reading; krtpkg check --repair %s repairs the file", file, ui.Bytes(bytes), file)
		}
		a.noteRemade(store)
	}
}

// noteRemade tells which volumes are read from the others.
func (a *app) noteRemade(store *archive.Store) {
	for _, number := range store.Remade() {
		a.ui.Note("note: volume %d of %d is lost; its content is restored from the others", number, store.Volumes())
	}
}

// healArchive heals what an archive needs before anything of it is written elsewhere, and says so. More damage than can
// be healed is an error.
func (a *app) healArchive(ctx context.Context, store *archive.Store, report progress.Func) error {
	healed, err := store.Survey(ctx, report)
	if err != nil {
		return err
	}
	for _, damage := range healed {
		a.ui.Note("note: %s: %s; krtpkg check --repair %s repairs the file", damage.File, healedText(damage), damage.File)
	}
	a.noteRemade(store)
	return nil
}

// healedText says what was healed while a file is read.
func healedText(damage archive.DamageError) string {
	if n := parity.CountBytes(damage.Damage.Content); n > 0 {
		return ui.Bytes(n) + " damaged, repaired while reading"
	}
	return damage.Error()
}

// repairFlags are those of check.
type repairFlags struct {
	repair bool
	to     string
}

func (f *repairFlags) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&f.repair, "repair", false, "repair archives that have parity, and restore lost volumes; each file is replaced once the repaired one has been checked")
	flags.StringVar(&f.to, "repair-to", "", "like --repair, but write repaired files into this folder, for media that cannot be written to")
}

func (f *repairFlags) isSet() bool { return f.repair || f.to != "" }

// repairArchives heals files, and returns those to check then: what is intact stays where it is. One that cannot be
// healed holds up no other: it is among the failures, and is not checked.
func (a *app) repairArchives(ctx context.Context, references []string, f *repairFlags, report progress.Func) (checked []string, failures []error) {
	for _, reference := range references {
		if p, err := place.Parse(reference); err != nil || p.File == "" || p.Tag != "" || p.Digest != "" {
			return nil, []error{&usageError{fmt.Errorf("--repair: %s is not an archive file; krtpkg copy --check restores what a registry or a folder lost", reference)}}
		}
	}
	files, failures := addLostVolumes(ctx, references)
	if f.to != "" {
		if err := refuseEqualNames(files); err != nil {
			return nil, []error{err}
		}
		if err := os.MkdirAll(f.to, 0o755); err != nil {
			return nil, []error{err}
		}
	}
	for _, file := range files {
		if ctx.Err() != nil {
			return nil, append(failures, ctx.Err())
		}
		repaired, err := archive.Repair(ctx, file, archive.RepairOptions{Dir: f.to, Progress: report})
		if f.to == "" && (errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)) {
			err = fmt.Errorf("%w: pass --repair-to FOLDER to repair a copy", err)
		}
		switch {
		case errors.Is(err, archive.ErrNoParity):
			checked = append(checked, file) // the check tells whether it needs healing
		case err != nil:
			failures = append(failures, fmt.Errorf("repair %s: %w", file, err))
		case repaired.File == "":
			checked = append(checked, file)
		default:
			checked = append(checked, repaired.File)
			a.ui.Say("%s", repairedText(repaired))
		}
	}
	return checked, failures
}

// addLostVolumes returns files, each once, with the volumes that are lost next to them.
func addLostVolumes(ctx context.Context, references []string) (files []string, failures []error) {
	seen := map[string]bool{}
	add := func(file string) {
		if !seen[file] {
			seen[file] = true
			files = append(files, file)
		}
	}
	for _, reference := range references {
		add(filepath.Clean(reference))
	}
	looked := map[string]bool{}
	for _, reference := range references {
		siblings, isVolume := archive.Siblings(filepath.Clean(reference))
		if !isVolume || looked[siblings[0]] {
			continue
		}
		looked[siblings[0]] = true
		lost, err := archive.LostVolumes(ctx, filepath.Clean(reference))
		if err != nil {
			failures = append(failures, fmt.Errorf("find volumes of %s: %w", reference, err))
		}
		for _, file := range lost {
			add(file)
		}
	}
	return files, failures
}

// refuseEqualNames returns a usage error for files that would be the same in one folder.
func refuseEqualNames(files []string) error {
	byName := map[string]string{}
	for _, file := range files {
		name := filepath.Base(file)
		if other, is := byName[name]; is {
			return &usageError{fmt.Errorf("--repair-to: %s and %s have the same name: repair them one by one, into two folders", other, file)}
		}
		byName[name] = file
	}
	return nil
}

// repairedText says what was repaired.
func repairedText(r *archive.Repaired) string {
	if r.IsRemade {
		return fmt.Sprintf("restored %s from the other volumes", r.File)
	}
	text := "repaired " + r.File + ": "
	if r.Healed > 0 {
		text += ui.Bytes(r.Healed) + " of content"
	}
	if r.Healed > 0 && r.Parity > 0 {
		text += ", "
	}
	if r.Parity > 0 {
		text += ui.Bytes(r.Parity) + " of parity"
	}
	return text
}
