package dropin

// usageText explains the options.
const usageText = `Usage: PROGRAM COMMAND [OPTION...]

Commands; the first option is one:
  -A, --add-service SERVICE      add a virtual service
  -E, --edit-service SERVICE     change all that is set of a service
  -D, --delete-service SERVICE   delete a service with its servers
  -a, --add-server SERVICE -r    add a real server to a service
  -e, --edit-server SERVICE -r   change all that is set of a server
  -d, --delete-server SERVICE -r delete a server from a service
  -C, --clear                    delete all services
  -L, -l, --list [SERVICE]       list services with their servers, or what an option says
  -Z, --zero [SERVICE]           set the counters of a service, or all, to zero
  -S, --save                     print the table as options for --restore
  -R, --restore                  read command lines from the standard input, one a line
      --set TCP FIN UDP          set the timeouts of connections, seconds; 0 leaves one as it is
      --start-daemon STATE       start the synchronisation of connections: master or backup
      --stop-daemon STATE        stop it
  -h, --help                     print this
  -v, --version                  print the version

SERVICE is one of:
  -t, --tcp-service HOST[:PORT]  by address; IPv6 is written [ADDRESS]:PORT
  -u, --udp-service HOST[:PORT]
      --sctp-service HOST[:PORT]
  -f, --fwmark-service MARK      by the mark of a packet, 1 to 4294967295
  -6, --ipv6                     behind -f: the mark is that of IPv6 packets

Options of services:
  -s, --scheduler NAME           rr, wrr, lc, wlc (default), lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh
  -b, --sched-flags FLAG,...     sh-fallback, sh-port, mh-fallback, mh-port, flag-1, flag-2, flag-3
  -p, --persistent [SECONDS]     keep a client at its server, 360 s if not said
  -M, --netmask MASK             persistence for networks: 255.255.255.0, with IPv6 the prefix length
      --pe NAME                  persistence engine: sip
  -o, --ops                      schedule each packet on its own (UDP)

Options of servers:
  -r, --real-server HOST[:PORT]  the server
  -g, --gatewaying               direct routing (default)
  -i, --ipip                     tunnel
  -m, --masquerading             network address translation
  -w, --weight N                 0 to 2147483647, 1 if not said
  -x, --u-threshold N            no new connections from so many on; 0 is no limit
  -y, --l-threshold N            and again below so many
      --tun-type TYPE            ipip (default), gue, gre
      --tun-port PORT            of gue
      --tun-nocsum, --tun-csum, --tun-remcsum   checksums of gue, and but for the last of gre

Options of lists:
  -n, --numeric                  numbers instead of names; also with --save
  -c, --connection               connections; with --persistent-conn the data of persistence engines
      --timeout, --daemon        timeouts of connections; what --start-daemon has started
      --stats, --rate            counters; rates per second
      --thresholds               -x and -y of servers
      --persistent-conn          persistent clients of servers
      --tun-info                 kinds of tunnels
      --exact                    numbers in full, not in K, M, G and T
      --nosort, --sort           the kernel's order; --sort does nothing

Options of --start-daemon:
      --mcast-interface NAME     eth0 if not said
      --syncid N                 0 to 255, 0 if not said
      --sync-maxlen BYTES        1 to 65507, longest message
      --mcast-group ADDRESS      224.0.0.81 if not said
      --mcast-port PORT          8848 if not said
      --mcast-ttl N              1 to 255, 1 if not said
`
