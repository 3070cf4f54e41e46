//! The operator's guide: chapters in Markdown, part of this documentation and of the program.
//!
//! Owns the text that `chat21-observer guide` prints. The chapter [`protocol`] is the wire contract
//! that comments in the source cite as `protocol.md`.

/// One chapter of the guide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chapter {
    /// The word it is asked for by.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// The whole chapter, in Markdown, with its heading.
    pub text: &'static str,
}

macro_rules! chapters {
    ($($module:ident $name:literal $title:literal;)*) => {
        $(
            #[doc = include_str!(concat!($name, ".md"))]
            #[allow(
                rustdoc::broken_intra_doc_links,
                rustdoc::invalid_html_tags,
                rustdoc::bare_urls,
                reason = "written for readers of Markdown: \"[USER@]HOST\" is not a link"
            )]
            pub mod $module {}
        )*

        /// Every chapter, in reading order.
        pub const CHAPTERS: &[Chapter] = &[
            $(Chapter { name: $name, title: $title, text: include_str!(concat!($name, ".md")) },)*
        ];
    };
}

chapters! {
    install "install" "Install and start";
    rabbitmq "rabbitmq" "RabbitMQ";
    mosquitto "mosquitto" "Mosquitto";
    other_brokers "other-brokers" "Other brokers";
    clients "clients" "Clients";
    http_api "http-api" "The HTTP API";
    security "security" "Security";
    policies "policies" "Policies";
    webhooks "webhooks" "Webhooks";
    store "store" "The store";
    scaling "scaling" "More than one machine";
    operations "operations" "Operations";
    settings "settings" "Settings";
    migrate_from_chat21_server "migrate-from-chat21-server" "Coming from chat21-server";
    troubleshooting "troubleshooting" "Troubleshooting";
    guarantees "guarantees" "Guarantees and limits";
    faq "faq" "Questions";
    protocol "protocol" "The Chat21 topic protocol";
    contributing "contributing" "Contributing";
    changelog "changelog" "Changes";
}

/// The chapter of that name.
pub fn chapter(name: &str) -> Option<&'static Chapter> {
    CHAPTERS.iter().find(|chapter| chapter.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chapter_begins_with_its_title() {
        for chapter in CHAPTERS {
            let heading = format!("# {}\n", chapter.title);
            assert!(chapter.text.starts_with(&heading), "{}", chapter.name);
        }
    }

    #[test]
    fn every_file_of_the_guide_is_a_chapter() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/guide");
        let files = std::fs::read_dir(dir).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut chapters: Vec<_> = names
            .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
            .collect();
        chapters.sort_unstable();
        let mut listed: Vec<_> = CHAPTERS.iter().map(|chapter| chapter.name).collect();
        listed.sort_unstable();
        assert_eq!(chapters, listed);
    }
}
