package uml

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// onOneCPU calls start, and lets what it starts run on one processor only. The kernel and the processes of the guest take
// turns: on one processor that is a switch of tasks, and on two an interrupt that wakes the other one, which makes a system
// call of the guest take three to four times as long where the host is a virtual machine itself. Guests that run at the
// same time are on different processors, as long as there are enough. The processor is taken until the claim is closed,
// which is nil if there was none to take.
func onOneCPU(start func() error) (claim io.Closer, err error) {
	// The thread that starts a process hands on its own processors.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if unix.SchedGetaffinity(0, &all) != nil || all.Count() < 2 {
		return nil, start()
	}
	var cpus []int
	for cpu := range len(all) * 64 {
		if all.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	cpu := cpus[rand.IntN(len(cpus))] // if all are taken
	for i := len(cpus) - 1; i >= 0; i-- {
		// A name that the kernel frees when this process ends.
		if l, err := net.Listen("unix", fmt.Sprintf("@drover-lab-cpu-%d", cpus[i])); err == nil {
			cpu, claim = cpus[i], l
			break
		}
	}
	var one unix.CPUSet
	one.Set(cpu)
	if unix.SchedSetaffinity(0, &one) == nil {
		defer func() { _ = unix.SchedSetaffinity(0, &all) }()
	}
	return claim, start()
}
