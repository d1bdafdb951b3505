// Package edit changes a specification as it is written: one service or real server at a time, and the rest of
// the text, its comments and its layout included, stays byte for byte. It is pure.
//
// A change is made on the values first, and the text is then cut where they differ. What comes out is read again
// and has to be the changed values. If it is not, as it may be where anchors and aliases are about what changes,
// the document is written anew, which loses its comments: [Result.Rewritten] says so.
package edit
