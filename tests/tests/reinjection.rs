//! Queries that are brought back into the ingress of an interface with an XDP program pass it once, whoever runs it: the driver,
//! which does not see them again, or the kernel, which does. Wants root and Linux 5.18.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{path::Path, sync::Arc, time::Duration};

use e2e::keep_tags;
use gregor::{
    datapath::{Hook, LoadOptions, ReturnPath, State, XdpMode},
    inject::{Inject as _, Injector, QueryFrame},
};
use gregor_tests::{
    lab::skip,
    packets::{
        build::{Frame, name, question, udp_to},
        loaded::{Loaded, compile, options, wait_until},
        observer::{Observer, Place},
        probe,
        table::{BROKER, FIRST_V4, FIRST_V6, SEVERAL, broker_query},
        wire::{Wire, on_a_wire_of, run},
    },
    tools,
};

fn xdp() -> LoadOptions {
    LoadOptions {
        hook: Hook::Xdp,
        ..options(compile(SEVERAL))
    }
}

fn has_xdp(test: &str) -> bool {
    // Guests of foreign kernels have no ethtool.
    let ethtool = || tools::ethtool().err().map(|_| "no ethtool".to_owned());
    let lacks = probe::lacks_for_xdp().or_else(ethtool);
    if let Some(lacks) = &lacks {
        skip(test, lacks);
    }
    lacks.is_none()
}

/// The program on a veth, and what stands behind it.
struct Attached {
    loaded: Loaded,
    behind: Observer,
    injector: Injector,
    _return_path: ReturnPath,
}

impl Attached {
    fn new(wire: &Wire, mut loaded: Loaded, mode: XdpMode) -> Self {
        let name = &wire.interface.name;
        run("ethtool", &keep_tags(name)).unwrap();
        loaded.datapath.attach(&wire.interface).unwrap();
        assert_eq!(loaded.datapath.mode(wire.interface.index), Some(mode));
        let return_path = ReturnPath::open().unwrap();
        Self {
            loaded,
            behind: Observer::attach(name, Place::Clsact { priority: 100 }).unwrap(),
            injector: Injector::open(Arc::clone(return_path.index()), |_| {}).unwrap(),
            _return_path: return_path,
        }
    }

    /// The query that the program takes from this frame.
    fn take(&mut self, wire: &Wire, frame: &Frame) -> QueryFrame {
        let before = self.behind.seen().unwrap().frames;
        wire.send(frame).unwrap();
        let mut taken = Vec::new();
        wait_until("the query is taken", || {
            taken.extend(self.loaded.drain());
            !taken.is_empty()
        });
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].frame, frame.bytes);
        assert_eq!(self.behind.seen().unwrap().frames, before);
        taken.remove(0).into()
    }

    /// Brings a query back, and waits until it is behind the program, once and as it came.
    fn brings_back(&mut self, query: &QueryFrame, len: u64) {
        let before = self.behind.seen().unwrap().frames;
        let counters = self.loaded.counters().unwrap();
        self.injector.pass_on(query).unwrap();
        wait_until("the query passes", || {
            self.behind.seen().unwrap().frames > before
        });
        let seen = self.behind.seen().unwrap();
        assert_eq!((seen.frames, seen.last_len), (before + 1, len));
        assert_eq!(seen.last_tc_index, 0);
        assert!(self.loaded.drain().is_empty(), "taken once more");
        assert_eq!(self.loaded.counters().unwrap(), counters);
    }

    /// Length of this frame where the program leaves it alone; behind generic XDP it is another one than on the wire.
    fn passes(&mut self, wire: &Wire, frame: &Frame) -> u64 {
        let before = self.behind.seen().unwrap().frames;
        self.loaded.heartbeat.renew(Duration::ZERO);
        wire.send(frame).unwrap();
        wait_until("it passes without a responder", || {
            self.behind.seen().unwrap().frames > before
        });
        self.loaded.heartbeat.renew(Duration::from_secs(3600));
        self.behind.seen().unwrap().last_len
    }
}

/// Queues of the pod's end from which it follows who runs the program on the node's end.
fn queues_for(mode: XdpMode) -> u32 {
    match mode {
        XdpMode::Native => 1,
        XdpMode::Generic => 2,
    }
}

fn padded(mut frame: Frame, padding: &[u8]) -> Frame {
    frame.bytes.extend(padding);
    frame
}

fn queries() -> Vec<Frame> {
    let broker = || question(name(BROKER), 1).build();
    let mut frames = Vec::new();
    for server in [FIRST_V4, FIRST_V6] {
        frames.push(udp_to(server, broker()).build());
        frames.push(udp_to(server, broker()).tag(0x8100, 7).build());
        let two = udp_to(server, broker()).tag(0x88a8, 7).tag(0x8100, 9);
        frames.push(two.build());
        // As behind a short packet, and as long as a trailer or longer.
        for padding in [1, 16, 40] {
            frames.push(padded(udp_to(server, broker()).build(), &vec![0; padding]));
        }
    }
    frames
}

/// Whoever runs the program, a query that is brought back is behind it as it came, and is neither taken nor counted again.
#[test]
fn a_query_that_is_brought_back_passes() {
    if !has_xdp("a_query_that_is_brought_back_passes") {
        return;
    }
    for mode in [XdpMode::Native, XdpMode::Generic] {
        on_a_wire_of(queues_for(mode), |wire| {
            let mut on = Attached::new(wire, Loaded::new(&xdp()).unwrap(), mode);
            for frame in queries() {
                let len = on.passes(wire, &frame);
                let query = on.take(wire, &frame);
                let generic = mode == XdpMode::Generic;
                assert_eq!(query.reinjection.trailer.is_some(), generic);
                on.brings_back(&query, len);
            }
        });
    }
}

/// A trailer that somebody makes up is padding like any other.
#[test]
fn a_made_up_trailer_is_padding() {
    if !has_xdp("a_made_up_trailer_is_padding") {
        return;
    }
    on_a_wire_of(queues_for(XdpMode::Generic), |wire| {
        let mut on = Attached::new(wire, Loaded::new(&xdp()).unwrap(), XdpMode::Generic);
        let plain = broker_query().build();
        let query = on.take(wire, &plain);
        let trailer = query.reinjection.trailer.unwrap();
        let flipped = |at: usize| {
            let mut trailer = trailer;
            trailer[at] ^= 1;
            trailer.to_vec()
        };
        for made_up in [
            vec![0; 16],
            flipped(0),
            flipped(8),
            flipped(15),
            // In another place: a byte too early, and one too late.
            [&trailer[..], &[0]].concat(),
            trailer[..15].to_vec(),
        ] {
            let frame = padded(plain.clone(), &made_up);
            let len = on.passes(wire, &frame);
            let query = on.take(wire, &frame);
            on.brings_back(&query, len);
        }
    });
}

/// A query waits at one process while the next one takes over, or at a program that a reload replaces.
#[test]
fn the_trailer_of_a_predecessor_is_known() {
    if !has_xdp("the_trailer_of_a_predecessor_is_known") {
        return;
    }
    let root = format!("/sys/fs/bpf/gregor-test-{}", std::process::id());
    let state = State::open(Path::new(&root)).unwrap();
    on_a_wire_of(queues_for(XdpMode::Generic), |wire| {
        let first = Loaded::pinned(&xdp(), &state).unwrap();
        let mut on = Attached::new(wire, first, XdpMode::Generic);
        let frame = broker_query().build();
        let len = on.passes(wire, &frame);
        let waiting = on.take(wire, &frame);
        on.loaded.datapath.leave();
        drop(on.loaded);

        on.loaded = Loaded::pinned(&xdp(), &state).unwrap();
        on.loaded.datapath.adopt_pinned();
        // Asked of the kernel.
        let mode = on.loaded.datapath.mode(wire.interface.index);
        assert_eq!(mode, Some(XdpMode::Generic));
        on.brings_back(&waiting, len);
        let query = on.take(wire, &frame);
        on.brings_back(&query, len);
        on.loaded.datapath.remove();
    });
}
