package proof

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// xdp runs a BPF program that passes everything on the frames, as if a driver did it on receiving them
// (Documentation/bpf/bpf_prog_run.rst, "live frame mode").
type xdp struct {
	prog *ebpf.Program
	err  error // the program cannot be loaded
}

func (*xdp) String() string { return "BPF" }

// xdpMD is struct xdp_md of include/uapi/linux/bpf.h.
type xdpMD struct {
	Data, DataEnd, DataMeta     uint32
	IngressIfindex              uint32
	RxQueueIndex, EgressIfindex uint32
}

const xdpPass = 2 // enum xdp_action

func (x *xdp) open(ifi Interface) (injector, error) {
	if x.prog == nil && x.err == nil {
		x.prog, x.err = ebpf.NewProgram(&ebpf.ProgramSpec{
			Name:         "drover_proof",
			Type:         ebpf.XDP,
			License:      "Apache-2.0",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
		})
		if x.err != nil {
			if errors.Is(x.err, unix.EPERM) {
				x.err = fmt.Errorf("%w (needs root or CAP_BPF and CAP_NET_ADMIN)", unix.EPERM) // the library suspects a memory limit
			}
			x.err = fmt.Errorf("failed to load the program: %w", x.err)
		}
	}
	if x.err != nil {
		return nil, x.err
	}
	inj := &xdpInjector{prog: x.prog, index: ifi.Index}
	// A frame to try: of a protocol that nobody takes (local experimental, IEEE 802).
	try := make([]byte, 60)
	copy(try, ifi.MAC[:])
	try[6], try[12], try[13] = 0x02, 0x88, 0xb5
	if err := inj.inject(try); err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w (needs Linux 5.18)", err)
		}
		return nil, err
	}
	return inj, nil
}

func (x *xdp) close() {
	if x.prog != nil {
		x.prog.Close()
		x.prog = nil
	}
}

type xdpInjector struct {
	prog  *ebpf.Program
	index int
}

func (x *xdpInjector) inject(frame []byte) error {
	_, err := x.prog.Run(&ebpf.RunOptions{
		Data:      frame,
		Repeat:    1,
		BatchSize: 1,
		Flags:     unix.BPF_F_TEST_XDP_LIVE_FRAMES,
		Context:   &xdpMD{DataEnd: uint32(len(frame)), IngressIfindex: uint32(x.index)},
	})
	if err != nil {
		return fmt.Errorf("failed to run the program: %w", err)
	}
	return nil
}

func (*xdpInjector) close() {}
