// Package drain decides how far a real server is that is to let go of its clients.
//
// A drain begins when it is asked for: by the specification, by an agent that is being stopped, or by weight 0. From
// then on the server has weight 0 in the kernel and gets no new clients. It is over when the kernel of the director
// that has the VIP has counted no active connection of it for a while, or at its deadline; then the server is kept
// with weight 0, or taken out.
//
// For IPVS a TCP connection is active from its first packet until its client closes it, and inactive for 2 minutes
// after that (tcp_state_active_table and tcp_timeouts in net/netfilter/ipvs/ip_vs_proto_tcp.c): under direct routing
// IPVS does not see the other direction. Waiting for those would make minutes of a drain that is over in a second; not
// waiting at all would cut the rest of an answer to a client that has closed its side. Hence the while,
// [spec.DrainPolicy.Settle]. UDP connections are all inactive, so of other protocols all are waited for.
//
// [Step] is a function of what is wanted, what is counted and the time. What it needs to know of the past is a
// [Record], of which three places together make sure that a drain goes on where it was:
//
//   - The specification, which all directors have on disk, says that the server is drained and since when. A director
//     that was off when it began counts the same deadline. "drover server drain" writes the time; where it is not
//     written, all directors that run see the change at the same moment, and take that.
//   - The announcement of an agent says the same for a drain that the agent asks for, and is with all directors.
//   - Each director keeps the records on disk for its own next start: when a drain without a written time began, and
//     that one is done, so that a server that was taken out does not come back.
//
// A standby does not count: of connections it knows those that it was told of. It ends a drain at the deadline only,
// and goes on with counting when it becomes active.
//
// # Persistence
//
// Persistence templates are not connections: they say which server a client goes to next. With
// net.ipv4.vs.expire_quiescent_template=1, which a director sets, a template of a server with weight 0 sends nobody
// there any more (ip_vs_check_template in net/netfilter/ipvs/ip_vs_conn.c), so a drain does not wait for templates.
// Where the director does not look after the settings ([Input.Templates]) it has to, as each may bring a client back.
//
// The connections that are left when a server is taken out are cut, not left hanging: with
// net.ipv4.vs.expire_nodest_conn=1 the next packet ends the connection's entry in the table, and IPVS answers it
// with a reset.
package drain
