//! Topic names, topic filters and share names.
