//! The parts of a block that matter: its rewrites and templates, and what surrounds them.

use super::{Content, Plan};
use crate::parser::{Block, Directive, Place};
use crate::rewrite;
use crate::template::{self, Template};

impl Plan<'_> {
    /// Reads a block's directives, and reports those that have others inside which are not read.
    pub(super) fn content(&mut self, block: &Block) -> Content {
        let mut content = Content::default();
        let mut answers_itself: Vec<(Place, &str)> = Vec::new();
        for directive in &block.directives {
            match directive.word(0) {
                "template" => match template::read(directive) {
                    Ok(mut template) => {
                        self.unescape(&mut template);
                        content.templates.push(template);
                    }
                    Err((place, reason)) => self.leave_out(place, reason),
                },
                "rewrite" => content.rewrites.push(rewrite::read(directive)),
                "view" => content.view = Some(directive.place),
                "acl" => answers_itself.push((
                    directive.place,
                    "`acl` keeps clients from answers that the rules give to all",
                )),
                "dns64" => answers_itself.push((
                    directive.place,
                    "`dns64` makes addresses of answers, also of those that the rules give without",
                )),
                other => {
                    let inner = directive
                        .block
                        .iter()
                        .flatten()
                        .filter(|inner| is_ours(inner));
                    for inner in inner {
                        self.leave_out(
                            inner.place,
                            format!(
                                "`{}` inside of `{other}`: a rule has no conditions",
                                inner.word(0)
                            ),
                        );
                    }
                }
            }
        }
        if !content.is_empty() {
            for (place, text) in answers_itself {
                self.warn(place, text);
            }
        }
        content
    }

    /// Takes off the backslashes that Helm's escaping doubles; elsewhere such an expression is left out.
    fn unescape(&mut self, template: &mut Template) {
        let Some(matches) = template.matches.take() else {
            return;
        };
        let mut kept = Vec::new();
        for (place, text) in matches {
            if !text.contains(r"\\") {
                kept.push((place, text));
            } else if self
                .documents
                .get(place.document)
                .is_some_and(|own| own.helm)
            {
                self.warn(place, r"`\\` is read as `\`, as Helm's escaping means it");
                kept.push((place, text.replace(r"\\", r"\")));
            } else {
                self.leave_out(
                    place,
                    r"`\\` is a literal backslash to CoreDNS, which no name shows before a dot; write `\.` for a dot",
                );
            }
        }
        template.matches = Some(kept);
    }
}

pub(super) fn is_ours(directive: &Directive) -> bool {
    matches!(directive.word(0), "template" | "rewrite")
        || directive.block.iter().flatten().any(is_ours)
}
