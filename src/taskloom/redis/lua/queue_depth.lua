-- How many tasks are due and with nobody; those of lost leases included. Message: nothing.
-- Returns -1 when so many leases are over that it must be asked again.
part(PIECE)
if redis.call('ZCOUNT', batches, '-inf', now) > 0 then
  return -1
end
local pending = redis.pcall('XPENDING', stream, group)
local held = (pending.err and 0 or pending[1]) - redis.call('ZCOUNT', leases, '-inf', now)
return redis.call('XLEN', stream) - held + redis.call('ZCOUNT', delayed, '-inf', now)
