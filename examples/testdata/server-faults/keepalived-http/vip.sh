# The script of every how-to: the settings, then the VIP.
set -e
echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore
echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce
ip address replace 10.0.0.100/32 dev lo
