"""From a name on the wire to the user's function, and back: routes, and running what they lead to."""
