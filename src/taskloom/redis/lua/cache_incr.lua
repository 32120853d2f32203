-- Add to a number, starting at 0.
-- KEYS[1] the number; ARGV[2], ARGV[3]: by, milliseconds to live for a new one (0: for ever).
-- Returns the sum.
local new = redis.call('EXISTS', KEYS[1]) == 0
local sum = redis.call('INCRBY', KEYS[1], ARGV[2])
if new and ARGV[3] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return sum
