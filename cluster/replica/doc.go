// Package replica is the replicated specification of a cluster: opaque documents, put into one order by
// the active director and stored on the disk of every director. It knows neither what the documents say
// nor how they travel.
//
// # Order
//
// The active director orders a change as [Version] (epoch, index): the epoch is that of its activation, the
// index rises by one with each change. A director whose log ends with a higher epoch refuses what a deposed
// one still sends. Every change carries its whole document, so a director that missed some takes any newer
// one.
//
// A newly active director restates its newest change under its own epoch ([Log.Restate], 3.17 becomes 4.17)
// before or with the first change of its own. A restatement is not a change: it has the same index, content
// and author, takes the place of what it restates in the history, and is still found as 3.17 (field Change),
// also by --if-version. It settles what the old active director left behind: whatever it ordered and the new
// one does not have is older than 4.17 and is not taken up again. An empty log is not restated and gives way
// to any other, so a director that lost its disk never spreads emptiness.
//
// # Acknowledgement
//
// A change is acknowledged when
//
//   - it is on the disk of the director that ordered it, and
//   - on the disk of every other director that is live, as told by [Peers], when the last of them answers, and
//   - [Options].Confirm, asked after that, says that the lease of this epoch is still held and that a
//     majority of the voters has been told the version.
//
// If only one director is live, its own disk is enough, and the answer says so ("1 of 2 directors").
//
// No acknowledged change is lost, provided that voters refuse candidates whose newest version is below an
// acknowledged one that they were told: then the log of each later active director ends with the
// acknowledged change or with one that was built on it. For this a director whose newest stored change is
// older than the acknowledged one that it knows of (its file was damaged) orders nothing ([ErrBehind]).
//
// A change that is not acknowledged, because the active director died, was deposed, or a live director could
// not store it, may survive or vanish. It survives if the next active director has it, which then restates
// it. In the end it is the same everywhere.
//
// # Merging
//
// A [Log] is a set of changes of which the newest [MaxHistory] are kept, within [MaxHistoryBytes], and the
// newest acknowledged version. [Log.Merge] is commutative, associative and idempotent.
//
// # Disk
//
// [Store] keeps one file for each change, written beside, synced and renamed, mode 0600. The newest good
// file is in force. A file that is torn, foreign or has a wrong checksum is renamed NAME.bad-N and reported;
// if no good one is left, the store refuses to order anything until another director has brought a change
// ([ErrDamaged]).
package replica
