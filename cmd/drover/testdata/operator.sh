#!/bin/sh
# A script in ipvsadm's words, as operators have them: it saves, clears, restores, starts and stops the
# synchronisation, and lists. It prints all that it sees, with the exit statuses.
say() { echo "== $*"; "$@"; echo "-- $?"; }

# The original waits without end when it stops a thread of the kernel that had no time to begin.
settle() { while cat /proc/[0-9]*/stat 2>/dev/null | grep -q '(ipvs-[mb]:.*) [RD]'; do :; done; }

say ipvsadm --set 600 60 120
say ipvsadm -A -t 192.0.2.10:80 -s wlc -p 300
say ipvsadm -a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 5
say ipvsadm -at 192.0.2.10:80 -r 10.0.0.12:80 -iw 3 --tun-type gre --tun-csum
say ipvsadm -A -u 192.0.2.10:53 -s rr -o
say ipvsadm -a -u 192.0.2.10:53 -r 10.0.0.53 -m
say ipvsadm -A -f 7 -6 -s sed
say ipvsadm -a -f 7 -6 -r [fd00::7]:0
say ipvsadm -A -t [2001:db8::10]:443 -s mh -b mh-port,mh-fallback
say ipvsadm -a -t [2001:db8::10]:443 -r [fd00::11]:443

rules=$(mktemp)
ipvsadm-save -n > "$rules"; echo "-- $?"
{ echo "# saved"; cat "$rules"; } > "$rules.commented"
echo "== the rules"; cat "$rules"
say ipvsadm -C
say ipvsadm -Ln
ipvsadm-restore < "$rules.commented"; echo "-- $?"
say ipvsadm -Ln
echo "== again, without clearing"
ipvsadm -R < "$rules"; echo "-- $?"
echo "== a restore with a mistake"
ipvsadm -C
sed '4s/-w/-W/' "$rules" | ipvsadm -R; echo "-- $?"
say ipvsadm -Sn
ipvsadm-restore < "$rules"; echo "-- $?"

say ipvsadm --start-daemon master --mcast-interface d0 --syncid 1
say ipvsadm --start-daemon master --mcast-interface d0 --syncid 1
say ipvsadm --start-daemon backup --mcast-interface d0 --syncid 2 --mcast-group 224.0.1.9 --mcast-port 9000 --mcast-ttl 3
settle
say ipvsadm -L --daemon
say ipvsadm --stop-daemon master
say ipvsadm --stop-daemon backup
say ipvsadm --stop-daemon backup

for view in --stats --rate --thresholds --persistent-conn --tun-info --timeout --daemon "--stats --exact" -c "-c --persistent-conn"; do
	say ipvsadm -Ln $view
done
say ipvsadm -Ln -t 192.0.2.10:80

# As a health checker does it.
ipvsadm -Ln | awk '/->/ && $2 ~ /^10[.]/ && $3 == "Route" {print $2}' | while read -r server; do
	say ipvsadm -e -t 192.0.2.10:80 -r "$server" -w 0
	say ipvsadm -d -t 192.0.2.10:80 -r "$server"
	say ipvsadm -d -t 192.0.2.10:80 -r "$server"
done
ipvsadm -Sn | awk '/^-A/ {print $2, $3, ($4 == "-6" ? $4 : "")}' | while read -r service; do
	say ipvsadm -Z $service
	say ipvsadm -D $service
done
say ipvsadm -Ln
rm "$rules" "$rules.commented"
