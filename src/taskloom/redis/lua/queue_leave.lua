-- Forget a consumer that holds nothing: with it Redis would drop what it holds.
-- Message: {consumer}. Returns 1 when it was forgotten.
local held = redis.pcall('XPENDING', stream, group, '-', '+', 1, message[1])
if held.err or #held > 0 then
  return 0
end
redis.call('XGROUP', 'DELCONSUMER', stream, group, message[1])
return 1
