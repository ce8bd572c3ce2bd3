// What goes in and out.
export {};
