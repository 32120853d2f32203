-- Message: {id}. Returns the flow, or nothing.
return read(message[1])
