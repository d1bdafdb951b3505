// Package adapt turns the loads of real servers into factors of their weights, so that who has more to do than the
// others gets less of what is new. It is pure: loads, their ages and the time that has passed are arguments.
//
// # Loads
//
// A load is a number from 0 on, of which 1 means fully used. Only what servers have in proportion to the others
// counts, so any measure does that grows with the connections that a server gets.
//
// # The law
//
// With u the smoothed load of a server, ū the mean of those of its pool, weighted by what they get, and f its factor,
// each step of dt moves
//
//	ln f  by  -k·dt·c·(u-ū)/max(ū, floor),  at most by Down·dt down and by Up·dt up,
//
// after which the factors are brought back to the same sum of weights and into their bounds. It is an integrator, and
// what it acts on answers late: by the smoothing, and by the way of a report. k is a quarter of the inverse of that time,
// with which a loop of one integrator and one lag does not overshoot. A scheduler that goes by connections which have
// ended does the opposite: it gives a server whose weight shrinks next to nothing until they are forgotten. For it k is
// no more than twice the inverse of that memory, and moves are as slow. Where the load grows faster than the share of a
// server, as queues do near their limit, all that is too much; so a server whose factor turns round after it has come
// far moves with half the caution c from there on, and gains it back slowly.
//
// A factor rests within the dead band, and until its deviation leaves it again; and it takes effect only when it has
// moved by more than rest from the one in effect. Both keep noise out of the kernel's table.
//
// # Without a load
//
// A server whose load is not told any more, or that gets nothing, goes back to factor 1 as fast as Up and Down allow, and
// the others share by theirs what is theirs together. So do all of a pool in which fewer than two loads are known. One
// whose load does not say anything yet keeps its factor.
package adapt
