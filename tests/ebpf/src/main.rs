//! The limits that gregor is measured against (what it costs to do nothing, to drop, and to answer every IPv4 query to
//! port 53 with one fixed A record, looking at nothing else), and the load generator's receiver.
//!
//! BPF_PROG_TEST_RUN does not restore the frame between runs, so `reflect_undo` puts it back as it was, and `undo` does
//! only that: the reflector's own time is the difference.
#![no_std]
#![no_main]

mod policy;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_SHOT},
    helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_store_bytes},
    macros::{classifier, map},
    maps::PerCpuArray,
    programs::TcContext,
};

mod receive;

/// Ethernet, IPv4 without options, UDP, DNS header.
const HEADERS: usize = 14 + 20 + 8 + 12;
/// A, IN, TTL 30, 192.0.2.1, owner at the question.
static RECORD: [u8; 16] = [0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1];
/// Twelve of them: 192 bytes, seven fewer than a tenant's usual answer has (CNAME, CNAME and three addresses behind a
/// broker's name).
static SECTION: [u8; 12 * RECORD.len()] = repeated();
const NEXT: i32 = -1;

const fn repeated<const N: usize>() -> [u8; N] {
    let mut section = [0; N];
    let mut at = 0;
    while at < N {
        section[at] = RECORD[at % RECORD.len()];
        at += 1;
    }
    section
}

/// How often a program did what it is for.
#[map]
static TAKEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn count() {
    if let Some(taken) = TAKEN.get_ptr_mut(0) {
        // SAFETY: the value belongs to this processor.
        unsafe { *taken += 1 };
    }
}

/// Does nothing.
#[classifier]
pub fn empty(_context: TcContext) -> i32 {
    NEXT
}

/// Does nothing but count, under the name of gregor's own program: a foreign one.
#[classifier]
pub fn gregor(_context: TcContext) -> i32 {
    count();
    NEXT
}

/// Drops everything.
#[classifier]
pub fn discard(_context: TcContext) -> i32 {
    count();
    TC_ACT_SHOT
}

/// Answers in place and sends the frame back out of its interface.
#[classifier]
pub fn reflect(context: TcContext) -> i32 {
    send_back(&context, &RECORD)
}

/// The same with as many bytes as a tenant's usual answer.
#[classifier]
pub fn reflect_whole(context: TcContext) -> i32 {
    send_back(&context, &SECTION)
}

#[inline(always)]
fn send_back<const N: usize>(context: &TcContext, section: &'static [u8; N]) -> i32 {
    match answer(context, section) {
        Some(_) => {
            count();
            // SAFETY: redirects to the interface that the frame came in on.
            unsafe { bpf_redirect((*context.skb.skb).ifindex, 0) as i32 }
        }
        None => NEXT,
    }
}

/// Answers in place, then puts the query back.
#[classifier]
pub fn reflect_undo(context: TcContext) -> i32 {
    put_back(&context, &RECORD)
}

/// The same with as many bytes as a tenant's usual answer.
#[classifier]
pub fn reflect_whole_undo(context: TcContext) -> i32 {
    put_back(&context, &SECTION)
}

#[inline(always)]
fn put_back<const N: usize>(context: &TcContext, section: &'static [u8; N]) -> i32 {
    match answer(context, section) {
        Some(query) => {
            // SAFETY: as in `send_back`; in a test run nothing is sent.
            let action = unsafe { bpf_redirect((*context.skb.skb).ifindex, 0) as i32 };
            undo_answer(context, &query);
            action
        }
        None => NEXT,
    }
}

/// Restores the query, for a run without an answer.
#[classifier]
pub fn undo(context: TcContext) -> i32 {
    match Query::read(&context) {
        Some(query) => {
            undo_answer(&context, &query);
            NEXT
        }
        None => NEXT,
    }
}

/// The headers of a query as they came.
struct Query {
    len: u32,
    headers: [u64; HEADERS.div_ceil(8)],
}

impl Query {
    #[inline(always)]
    fn read(context: &TcContext) -> Option<Self> {
        let (data, end) = (context.data(), context.data_end());
        if data + HEADERS + 2 > end {
            return None;
        }
        let mut headers = [0u64; HEADERS.div_ceil(8)];
        let mut word = 0;
        while word < headers.len() {
            // SAFETY: HEADERS + 2 bytes, seven words, are there.
            headers[word] = unsafe { core::ptr::read_volatile((data as *const u64).add(word)) };
            word += 1;
        }
        // SAFETY: the kernel's context lives as long as the program runs.
        let len = unsafe { (*context.skb.skb).len };
        Some(Self { len, headers })
    }
}

#[inline(always)]
fn load<T: Copy>(data: usize, offset: usize) -> T {
    // SAFETY: callers have checked HEADERS bytes against the end.
    unsafe { core::ptr::read_volatile((data + offset) as *const T) }
}

#[inline(always)]
fn store<T: Copy>(data: usize, offset: usize, value: T) {
    // SAFETY: callers have checked HEADERS bytes against the end.
    unsafe { core::ptr::write_volatile((data + offset) as *mut T, value) }
}

#[inline(always)]
fn answer<const N: usize>(context: &TcContext, section: &'static [u8; N]) -> Option<Query> {
    let query = Query::read(context)?;
    let skb: *mut __sk_buff = context.as_ptr().cast();
    let data = context.data();
    if data + HEADERS > context.data_end()
        || load::<u16>(data, 12) != 0x0800_u16.to_be()
        || (load::<u16>(data, 22) >> 8) as u8 != 17
        || load::<u16>(data, 36) != 53_u16.to_be()
    {
        return None;
    }
    // SAFETY: the frame grows by the record, which is then written into the new bytes.
    unsafe {
        if bpf_skb_change_tail(skb, query.len + N as u32, 0) != 0
            || bpf_skb_store_bytes(skb, query.len, section.as_ptr().cast(), N as u32, 0) != 0
        {
            return None;
        }
    }
    let data = context.data();
    if data + HEADERS > context.data_end() {
        return None;
    }
    // Ethernet and IP addresses, ports.
    let to = [
        load::<u16>(data, 0),
        load::<u16>(data, 2),
        load::<u16>(data, 4),
    ];
    let from = [
        load::<u16>(data, 6),
        load::<u16>(data, 8),
        load::<u16>(data, 10),
    ];
    store(data, 0, from[0]);
    store(data, 2, from[1]);
    store(data, 4, from[2]);
    store(data, 6, to[0]);
    store(data, 8, to[1]);
    store(data, 10, to[2]);
    let (source, destination) = (load::<u32>(data, 26), load::<u32>(data, 30));
    store(data, 26, destination);
    store(data, 30, source);
    let ports = load::<u32>(data, 34);
    store(data, 34, ports.rotate_left(16));
    // Lengths; the IP header's sum changes by as much as its length, UDP over IPv4 may go without (RFC 768).
    let total = u16::from_be(load::<u16>(data, 16)) + N as u16;
    store(data, 16, total.to_be());
    let sum = u32::from(u16::from_be(load::<u16>(data, 24))) + 0xffff - N as u32;
    store(data, 24, ((sum + (sum >> 16)) as u16).to_be());
    let udp = u16::from_be(load::<u16>(data, 38)) + N as u16;
    store(data, 38, udp.to_be());
    store(data, 40, 0u16);
    // QR, RD, RA; nothing but answers.
    store(data, 44, 0x8180_u16.to_be());
    store(data, 48, ((N / RECORD.len()) as u16).to_be());
    Some(query)
}

#[inline(always)]
fn undo_answer(context: &TcContext, query: &Query) {
    let skb: *mut __sk_buff = context.as_ptr().cast();
    // SAFETY: back to the length before; then the headers as they were.
    if unsafe { bpf_skb_change_tail(skb, query.len, 0) } != 0 {
        return;
    }
    let data = context.data();
    if data + HEADERS + 2 > context.data_end() {
        return;
    }
    let mut word = 0;
    while word < query.headers.len() {
        store(data, word * 8, query.headers[word]);
        word += 1;
    }
    count();
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier refuses a program in which a panic can be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
