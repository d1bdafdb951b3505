package dropin

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/ipvs"
)

// message says what the kernel's refusal means, in the words of the original: first by what was asked,
// then by the error number alone, and else as strerror(3) does.
func message(a Action, err error) string {
	if errors.Is(err, os.ErrPermission) {
		return "Permission denied (you must be root)"
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	switch a {
	case AddService, EditService:
		switch errno {
		case unix.EEXIST:
			return "Service already exists"
		case unix.ENOENT:
			return "Scheduler or persistence engine not found"
		case unix.ESRCH:
			return "No such service"
		}
	case DeleteService, Zero, List:
		if errno == unix.ESRCH {
			return "No such service"
		}
	case AddServer, EditServer, DeleteServer:
		switch errno {
		case unix.ESRCH:
			return "Service not defined"
		case unix.EEXIST:
			return "Destination already exists"
		case unix.ENOENT:
			return "No such destination"
		}
	case StartDaemon:
		if errno == unix.EEXIST {
			return "Daemon has already run"
		}
	case StopDaemon:
		if errno == unix.ESRCH {
			return "No daemon is running"
		}
	}
	switch errno {
	case unix.EINVAL:
		return "Invalid operation.  Possibly wrong module version, address not unicast, ..."
	case unix.ENOPROTOOPT:
		return "Protocol not available"
	case unix.ENOMEM:
		return "Memory allocation problem"
	case unix.EOPNOTSUPP:
		return "Operation not supported with IPv6"
	case unix.EAFNOSUPPORT:
		return "Operation not supported with specified address family"
	case unix.EMSGSIZE:
		return "Module is wrong version"
	}
	text := errno.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

// dial connects to the kernel, which the original does before it looks at its arguments.
func dial(ctx context.Context) (*ipvs.Client, error) {
	c, err := ipvs.Dial(ctx, ipvs.Config{Timeout: kernelTimeout})
	if err == nil {
		return c, nil
	}
	text := err.Error()
	var module *ipvs.ErrModule
	switch {
	case errors.Is(err, os.ErrPermission):
		text = message(0, err)
	case errors.As(err, &module):
		text = message(0, unix.ENOPROTOOPT)
	}
	return nil, refuse("Can't initialize ipvs: %s\nAre you sure that IP Virtual Server is built in the kernel or as module?", text)
}
