// Package app has what every daemon of Drover needs and no part of one should know about: the log, the
// lock, the watch on the configuration file, systemd's readiness and watchdog, and the status socket.
// Each daemon's own folder joins its parts.
package app
