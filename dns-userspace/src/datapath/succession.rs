//! One program after another, in this process or after it: links are replaced in one step, and what is shared stays.

use std::collections::HashMap;

use super::{
    Datapath, DatapathError, Hook, Interface,
    attach::{self, Link},
    egress::PeersElsewhere,
    error::one_line,
    object::program_of,
    pins::unpin,
    program::{Attached, Pending},
    steer,
};

impl Datapath {
    /// Puts this program's rules in force for what userspace reads and writes. Returns what was in force.
    fn put_in_force(&mut self) -> Result<Option<Pending>, DatapathError> {
        self.shared.rules.put_in_force(&self.options.rules);
        if self.shared.clients.put_in_force(&self.options.rules) {
            self.shared.answers.forget_unknown();
        }
        let Some(Pending {
            tables,
            view,
            observed,
        }) = self.pending.take()
        else {
            return Ok(None);
        };
        let (tables, view) = self
            .shared
            .answers
            .switch(tables, view)
            .ok_or(DatapathError::LetGo)?;
        if tables.is_some() {
            self.shared.keep(&self.paths)?;
        }
        let observed = self.shared.observed.put_in_force(observed);
        Ok(Some(Pending {
            tables,
            view,
            observed,
        }))
    }

    /// Takes over what a process has left: programs on interfaces and on the sockets, each replaced in one step. A program on
    /// another hook than this one's stays until [`Datapath::remove_leftovers`].
    pub fn adopt_pinned(&mut self) {
        let Some(state) = self.state.clone() else {
            return;
        };
        let names: HashMap<u32, String> = nix::net::if_::if_nameindex()
            .map(|interfaces| {
                interfaces
                    .iter()
                    .map(|found| (found.index(), found.name().to_string_lossy().into_owned()))
                    .collect()
            })
            .unwrap_or_default();
        if !names.is_empty() {
            self.shared
                .interfaces()
                .retain(|index| names.contains_key(&index));
        }
        let peers = PeersElsewhere::of_all();
        for (place, link) in state.pinned_links() {
            let path = state.link(&place);
            if place == steer::PIN {
                match &mut self.steering {
                    Some(steering) => steering.adopt(link, path),
                    None => self.leftovers.push((path, link)),
                }
                continue;
            }
            let index = link.info().map_or(0, |info| info.ifindex);
            let Some(name) = names.get(&index) else {
                // The interface was removed, and the link with it.
                unpin(&path);
                continue;
            };
            if place != self.place(index) {
                self.leftovers.push((path, link));
                continue;
            }
            let held = Attached {
                interface: Interface {
                    index,
                    name: name.clone(),
                },
                link: Link::adopted(link, self.options.hook, index),
                pin: Some(path),
            };
            self.take_left(held, &peers);
        }
        if self.options.hook == Hook::Clsact {
            self.adopt_filters(&names, &peers);
        }
        if !self.links.is_empty() {
            tracing::info!(
                interfaces = self.links.len(),
                "took over from an earlier process"
            );
        }
    }

    /// The filters that a process has left on clsact, each replaced in one step.
    fn adopt_filters(&mut self, names: &HashMap<u32, String>, peers: &PeersElsewhere) {
        for (index, name) in names {
            let interface = Interface {
                index: *index,
                name: name.clone(),
            };
            if let Some(link) = attach::left_filter(&interface, self.options.order) {
                let held = Attached {
                    interface,
                    link,
                    pin: None,
                };
                self.take_left(held, peers);
            }
        }
    }

    /// [`Datapath::take_place`] of a program that a process has left.
    fn take_left(&mut self, held: Attached, peers: &PeersElsewhere) {
        let name = held.interface.name.clone();
        if let Err(error) = self.take_place(held, peers) {
            tracing::warn!(
                interface = name,
                error = one_line(&error),
                "a program of an earlier process cannot be replaced; will attach again"
            );
        }
    }

    /// Puts the program in the place of the one that a link holds, in one step. On an error the interface is without a
    /// program.
    fn take_place(&mut self, held: Attached, peers: &PeersElsewhere) -> Result<(), DatapathError> {
        let Attached {
            interface,
            link,
            pin,
        } = held;
        let index = interface.index;
        let replaced = self.allow_interface(index).and_then(|()| {
            let program = program_of(&mut self.ebpf, self.program)?;
            attach::replace(program, link).map_err(|error| DatapathError::Attach {
                interface: interface.name.clone(),
                error,
            })
        });
        match replaced {
            Ok(link) => {
                self.shared.reinjections.attached(index, link.mode());
                let attached = Attached {
                    interface,
                    link,
                    pin,
                };
                self.links.insert(index, attached);
                // A failure leaves the usual egress, until it is looked for again.
                let _ = self
                    .shared
                    .interfaces()
                    .set_reply_path(index, peers.reply_path(index));
                Ok(())
            }
            Err(error) => {
                if let Some(pin) = pin {
                    unpin(&pin);
                }
                self.shared.interfaces().remove(index);
                Err(error)
            }
        }
    }

    /// Detaches what a process has left on interfaces that are not wanted, once all wanted ones have this program.
    pub fn remove_leftovers(&mut self, is_wanted: impl Fn(u32) -> bool) {
        for (path, link) in self.leftovers.drain(..) {
            let _ = link.detach();
            unpin(&path);
        }
        let unwanted: Vec<u32> = self
            .links
            .keys()
            .copied()
            .filter(|index| !is_wanted(*index))
            .collect();
        for index in unwanted {
            self.detach(index);
        }
        if let Some(state) = &self.state {
            state.remove_other_versions();
            if self.options.hook != Hook::Clsact {
                attach::remove_left_filters();
            }
        }
    }

    /// Leaves everything that is pinned where it is, and writes no more: a successor takes over.
    pub fn leave(&mut self) {
        self.shared.answers.let_go();
        self.shared.clients.let_go();
        self.shared.let_go_of_journal();
        for (_, attached) in self.links.drain() {
            attach::leave(attached.link);
        }
        self.leftovers.clear();
        if let Some(steering) = &mut self.steering {
            steering.leave();
        }
    }

    /// Takes over every interface of an earlier program, each in one step. Returns those that could not be taken over; they are
    /// left without a program. Where the programs are on different hooks and this one cannot be attached to one of the wanted
    /// interfaces, that is an error, and the earlier program stays on all of them.
    pub fn adopt(
        &mut self,
        previous: &mut Datapath,
        is_wanted: impl Fn(&Interface) -> bool,
    ) -> Result<Vec<(Interface, DatapathError)>, DatapathError> {
        let same_place = previous.options.hook == self.options.hook
            && previous.options.order == self.options.order;
        let before = self.put_in_force()?;
        if same_place {
            return Ok(self.take_links(previous));
        }
        if let Err(error) = self.attach_beside(previous, is_wanted) {
            previous.note_programs();
            previous.pending = before;
            if let Err(error) = previous.put_in_force() {
                tracing::error!(
                    error = one_line(&error),
                    "the previous answers cannot be restored"
                );
            }
            return Err(error);
        }
        // Nothing fails from here on.
        for (_, attached) in previous.links.drain() {
            attached.detach();
        }
        self.note_programs();
        Ok(Vec::new())
    }

    /// Queries that are brought back meet this program alone from now on.
    fn note_programs(&self) {
        let programs = self.links.iter();
        let programs = programs.map(|(index, held)| (*index, held.link.mode()));
        self.shared
            .reinjections
            .replace(self.options.hook, programs);
    }

    /// Puts the program in the place of an earlier one, link by link.
    fn take_links(&mut self, previous: &mut Datapath) -> Vec<(Interface, DatapathError)> {
        let peers = PeersElsewhere::of_all();
        let held = previous.links.drain().map(|(_, held)| held);
        held.filter_map(|held| {
            let interface = held.interface.clone();
            let error = self.take_place(held, &peers).err()?;
            Some((interface, error))
        })
        .collect()
    }

    /// Attaches by another hook to the wanted interfaces of an earlier program, which stays where it is: a query meets one of
    /// the two. On an error everything is as before.
    fn attach_beside(
        &mut self,
        previous: &mut Datapath,
        is_wanted: impl Fn(&Interface) -> bool,
    ) -> Result<(), DatapathError> {
        for interface in previous.attached().into_iter().filter(is_wanted) {
            match self.attach(&interface) {
                Ok(()) => {}
                // Its removal comes as an event.
                Err(DatapathError::Attach {
                    error: attach::AttachError::Gone,
                    ..
                }) => {}
                Err(error) => {
                    // Nothing else: what belongs to the interfaces is the earlier program's again.
                    for (_, attached) in self.links.drain() {
                        attached.detach();
                    }
                    previous.restore_filters();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Restores the clsact filters that another program has replaced: an interface has one filter of gregor's.
    fn restore_filters(&mut self) {
        if self.options.hook != Hook::Clsact {
            return;
        }
        for interface in self.attached() {
            if let Some(attached) = self.links.remove(&interface.index) {
                attached.detach();
            }
            if let Err(error) = self.attach(&interface) {
                tracing::error!(error = one_line(&error), "the program cannot be restored");
            }
        }
    }
}
